"""The cost of one kernel, recounted tile by tile."""

import dataclasses
import itertools

import pytest

from tailfleet_agent.worker.backends import wave_model
from tailfleet_agent.worker.backends.named_boards import PROFILES, profile
from tailfleet_agent.worker.backends.wave_model import FusedAttention, Gemm, Stream
from tailfleet_schema.errors import Blame, InputError

PLAIN = dataclasses.replace(profile("jetson-tx2"), sms=3, simt_tiles=((64, 32, 0.5),), memory_gb_s=1e9)


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
    board = profile("agx-orin")
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
