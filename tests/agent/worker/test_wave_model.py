"""The cost of one kernel, recounted tile by tile."""

import dataclasses
import itertools

import pytest

from tailfleet_agent.worker.backends import wave_model
from tailfleet_agent.worker.backends.named_boards import PROFILES, profile
from tailfleet_agent.worker.backends.wave_model import FusedAttention, Gemm, Stream
from tailfleet_schema.errors import Blame, InputError

PLAIN = dataclasses.replace(
    profile("jetson-tx2"), sms=3, simt_tiles=((64, 32, 0.5),), memory_gb_s=1e9, ramp=0.0, splits=(1,)
)


def recounted_ns(board, gemm, tile):
    """Hands out tiles to SMs one at a time, in turn, and waits for the busiest."""
    rows, columns, share = tile
    busy = [0] * board.sms
    turn = itertools.cycle(range(board.sms))
    for _ in range(gemm.batch):
        for _ in range(0, gemm.rows, rows):
            for _ in range(0, gemm.columns, columns):
                busy[next(turn)] += 1
    lanes_hz = board.lanes_per_sm * board.clock_mhz * 1e6
    seconds = rows * columns * gemm.depth / (lanes_hz * board.efficiency * share)
    return max(busy) * seconds * 1e9


@pytest.mark.parametrize(
    "gemm",
    [
        Gemm(1, 1, 1, 8),
        Gemm(1, 64, 96, 100),
        Gemm(1, 65, 96, 100),
        Gemm(1, 197, 1152, 384),
        Gemm(6, 197, 197, 64),
    ],
)
def test_a_gemm_agrees_with_a_slow_recount(gemm):
    assert wave_model.gemm_arithmetic_ns(PLAIN, "fp32", gemm) == pytest.approx(
        recounted_ns(PLAIN, gemm, PLAIN.simt_tiles[0])
    )


def test_the_fastest_tile_shape_is_taken():
    board = dataclasses.replace(profile("agx-orin"), ramp=0.0, splits=(1,))
    gemm = Gemm(1, 150, 1152, 384)

    assert wave_model.gemm_arithmetic_ns(board, "fp32", gemm) == pytest.approx(
        min(recounted_ns(board, gemm, tile) for tile in board.simt_tiles)
    )


def test_one_tile_over_a_full_wave_costs_a_whole_wave():
    def time(columns):
        return wave_model.gemm_arithmetic_ns(PLAIN, "fp32", Gemm(1, 64, columns, 100))

    one_wave = time(32)
    assert time(3 * 32) == pytest.approx(one_wave)
    assert time(3 * 32 + 1) == pytest.approx(2 * one_wave)
    assert time(6 * 32) == pytest.approx(2 * one_wave)


def test_utilisation_grows_with_waves():
    ramping = dataclasses.replace(PLAIN, ramp=0.2)

    def ratio(waves):
        gemm = Gemm(1, 64, 32 * 3 * waves, 100)
        return wave_model.gemm_arithmetic_ns(ramping, "fp32", gemm) / wave_model.gemm_arithmetic_ns(PLAIN, "fp32", gemm)

    assert ratio(1) == pytest.approx(1 / 0.8)
    assert ratio(2) == pytest.approx(1 / 0.9)
    assert ratio(20) == pytest.approx(1 / 0.99)


def test_a_cut_depth_fills_idle_sms_and_pays_for_its_sums():
    """One tile on three SMs: three pieces of a third each, where the product is deep enough."""
    cutting = dataclasses.replace(PLAIN, splits=(1, 3))
    deep, shallow = Gemm(1, 64, 32, 3 * wave_model.LEAST_SPLIT_DEPTH), Gemm(1, 64, 32, 300)

    whole = wave_model.gemm_arithmetic_ns(PLAIN, "fp32", deep)
    sums = wave_model.bytes_ns(PLAIN, 2 * 3 * 64 * 32 * 4)
    assert wave_model.gemm_arithmetic_ns(cutting, "fp32", deep) == pytest.approx(
        whole / 3 / wave_model.SPLIT_SHARE + sums
    )
    assert wave_model.gemm_arithmetic_ns(cutting, "fp32", shallow) == wave_model.gemm_arithmetic_ns(
        PLAIN, "fp32", shallow
    )
    slow_memory = dataclasses.replace(cutting, memory_gb_s=1e-3)
    assert wave_model.gemm_arithmetic_ns(slow_memory, "fp32", deep) == whole


def test_a_bad_choice_holds_for_a_range_of_rows_and_depends_on_the_seed():
    def times(**options):
        board = dataclasses.replace(profile("jetson-tx2"), **options)
        return [wave_model.gemm_arithmetic_ns(board, "fp32", Gemm(1, rows, 1152, 384)) for rows in range(128, 256)]

    good, always = times(), times(reversals=1.0)
    bad = times(reversals=0.4)
    wrong = [index for index in range(128) if bad[index] != good[index]]

    assert all(worse > best for best, worse in zip(good, always))
    assert all(bad[index] == always[index] for index in wrong)
    # Sixteen rows at a time between 128 and 256.
    assert wrong
    assert len(wrong) % 16 == 0
    assert len(wrong) < 128
    assert {index // 16 for index in wrong} == {index // 16 for index in wrong if index % 16 == 0}
    assert times(reversals=0.4) == bad != times(reversals=0.4, seed=1)


@pytest.mark.parametrize("name", PROFILES)
def test_more_rows_never_cost_less(name):
    board = profile(name)
    times = [wave_model.kernel_ns(board, "fp32", Gemm(1, rows, 1152, 384)) for rows in range(1, 600)]

    assert times == sorted(times)


def test_no_kernel_beats_the_memory():
    board = dataclasses.replace(PLAIN, memory_gb_s=1e-3, launch_ns=0.0)
    gemm = Gemm(2, 10, 20, 30)

    moved = 2 * 4 * (10 * 30 + 30 * 20 + 10 * 20)
    assert wave_model.kernel_ns(board, "fp32", gemm) == pytest.approx(moved / (1e-3 * wave_model.BANDWIDTH_SHARE))


def test_every_launch_is_paid_for():
    assert wave_model.kernel_ns(PLAIN, "fp32", Stream(0)) == PLAIN.launch_ns
    assert wave_model.kernel_ns(PLAIN, "fp32", Stream(0, launches=3)) == 3 * PLAIN.launch_ns
    with_launch = wave_model.kernel_ns(PLAIN, "fp32", Gemm(1, 64, 32, 100))
    assert with_launch == pytest.approx(PLAIN.launch_ns + recounted_ns(PLAIN, Gemm(1, 64, 32, 100), (64, 32, 0.5)))


def test_fused_attention_moves_no_matrix_and_steps_by_its_tiles():
    def time(n):
        return wave_model.kernel_ns(PLAIN, "fp32", FusedAttention(6, n, n, 64))

    assert time(64) == pytest.approx(time(1))
    assert time(65) > time(64)


def test_half_precision_is_faster_and_a_missing_one_refused():
    gemm = Gemm(1, 512, 1536, 384)
    orin, tx2 = profile("agx-orin"), profile("jetson-tx2")

    assert wave_model.kernel_ns(orin, "fp16", gemm) < wave_model.kernel_ns(orin, "fp32", gemm)
    with pytest.raises(InputError, match="jetson-tx2 cannot compute in bf16") as caught:
        wave_model.kernel_ns(tx2, "bf16", gemm)
    assert caught.value.blame is Blame.AUTHOR
