"""Virtual boards: known truth, seeded noise, cliffs where tiles end, and no torch."""

import dataclasses
import math
import random
import statistics
import subprocess
import sys

import pytest

from tailfleet_agent.worker.backends import OutOfMemory, named_boards, virtual
from tailfleet_agent.worker.backends.virtual import PROFILES, VirtualBackend, true_ns
from tailfleet_schema.curve import SIZED, Part, Unit
from tailfleet_schema.errors import InputError
from tailfleet_schema.schedule import PLACEMENT, Schedule, dense, importance_passes
from tailfleet_schema.workload import Geometry, ModelSpec

SMALL = Geometry(12, 384, 6, 1536, 197, 1, 224, 16, 3, 1000)
SMALL_SPEC = ModelSpec("small", "deit_small_patch16_224", SMALL)
REDUCING = sorted(set(PLACEMENT) - {"dense"})


def model_ns(board, n, geometry=SMALL, batch=1, dtype="fp32"):
    return true_ns(board, geometry, Unit(Part.MODEL, n, n), batch, dtype)


def schedule_ns(board, method, keep, restore_before=None):
    schedule = Schedule(method, "small", 197, 1, keep, restore_before)
    return true_ns(board, SMALL, Unit(Part.SCHEDULE, 197, keep[-1], schedule.digest), 1, "fp32", schedule)


@pytest.mark.parametrize("board", ["jetson-nano", "jetson-tx2"])
def test_cliffs_stand_where_tiles_end_and_treads_between_are_flat(board):
    steps = {n: model_ns(board, n + 1) / model_ns(board, n) - 1 for n in range(2, 197)}

    cliffs = {n for n, step in steps.items() if step > 0.08}
    assert cliffs == {32, 64, 128, 192}
    assert all(step < 0.04 for n, step in steps.items() if n not in cliffs)


@pytest.mark.parametrize("board", PROFILES)
@pytest.mark.parametrize("batch", [1, 8])
def test_more_tokens_never_cost_less(board, batch):
    curve = [model_ns(board, n, batch=batch) for n in range(1, 198)]

    assert curve == sorted(curve)


def test_at_batch_one_a_large_gpu_is_flat_where_a_small_one_climbs():
    def slope(board):
        return model_ns(board, 64) / model_ns(board, 16)

    assert slope("a100") < 1.02
    assert slope("jetson-nano") > 1.2


@pytest.mark.parametrize("board", PROFILES)
@pytest.mark.parametrize("n", [16, 128, 197])
def test_the_whole_is_a_little_more_than_its_parts(board, n):
    parts = sum(true_ns(board, SMALL, Unit(part, n, n), 1, "fp32") for part in (Part.FIXED, Part.ATTENTION, Part.MLP))

    assert 1.02 < model_ns(board, n) / parts < 1.07


def test_the_dense_schedule_is_the_model():
    whole = dense("small", SMALL)
    unit = Unit(Part.SCHEDULE, 197, 197, whole.digest)

    assert true_ns("agx-orin", SMALL, unit, 1, "fp32", whole) == pytest.approx(model_ns("agx-orin", 197))


@pytest.mark.parametrize("method", REDUCING)
def test_a_reduction_costs_something_and_then_saves(method):
    board = "jetson-tx2"
    half = true_ns(board, SMALL, Unit(Part.REDUCE, 197, 196, method), 1, "fp32")

    assert half > true_ns(board, SMALL, Unit(Part.ATTENTION, 197, 197), 1, "fp32")
    assert schedule_ns(board, method, [197] * 3 + [128] * 9) < 0.9 * model_ns(board, 197)


def reduce_ns(board, method, n, m):
    return true_ns(board, SMALL, Unit(Part.REDUCE, n, m, method), 1, "fp32") / 12


@pytest.mark.parametrize("board", ["jetson-tx2", "a100"])
def test_what_reduces_behind_a_block_has_its_mlp_see_all_that_arrive(board):
    def mlp_ns(n):
        return true_ns(board, SMALL, Unit(Part.MLP, n, n), 1, "fp32") / 12

    keep = [197] * 11 + [64]
    added = reduce_ns(board, "cropr", 197, 64) - reduce_ns(board, "topk", 197, 64) + mlp_ns(197) - mlp_ns(64)
    assert schedule_ns(board, "cropr", keep) - schedule_ns(board, "topk", keep) == pytest.approx(1.02 * added)


def test_restored_tokens_cost_whole_blocks_and_the_way_back():
    keep = [197] * 3 + [64] * 4 + [64] * 5
    kept = schedule_ns("jetson-tx2", "cropr", keep)
    halves = [
        true_ns("jetson-tx2", SMALL, Unit(part, n, n), 1, "fp32") / 12
        for part in (Part.ATTENTION, Part.MLP)
        for n in (197, 64)
    ]
    block = halves[0] - halves[1] + halves[2] - halves[3]
    back = schedule_ns("jetson-tx2", "cropr", [*keep[:11], 197], 11) - kept - 1.02 * block
    assert 0 < back < 0.2 * block
    twice = [197] * 3 + [100] * 3 + [64] * 5
    restoring = schedule_ns("jetson-tx2", "cropr", [*twice, 197], 11) - schedule_ns("jetson-tx2", "cropr", [*twice, 64])
    assert restoring - 1.02 * block > back


def test_importance_is_passed_on_most_in_early_blocks_and_not_where_the_similar_are_enough():
    assert importance_passes("topk", 0, 12) == 0
    early, between, late = (
        schedule_ns("a100", "zero-tprune", [197] * block + [100] + [100] * (11 - block))
        + block * (schedule_ns("a100", "topk", [100] * 12) - schedule_ns("a100", "topk", [197] * 12)) / 12
        for block in (0, 4, 9)
    )
    assert early > between > late
    assert reduce_ns("a100", "zero-tprune", 197, 186) > 1.2 * reduce_ns("a100", "zero-tprune", 197, 187)


def test_merging_in_every_block_is_slower_than_dense_on_a_launch_bound_board():
    keep = [197 - 13 * (block + 1) for block in range(12)]

    assert schedule_ns("jetson-tx2", "tome", keep) > 1.2 * model_ns("jetson-tx2", 197)
    assert schedule_ns("a100", "tome", keep) > 1.5 * model_ns("a100", 197)


@pytest.mark.parametrize(
    ("unit", "sentence"),
    [
        (Unit(Part.MODEL, 198, 198), "198 tokens asked for, but the model has 197"),
        (Unit(Part.LOSS, 197, 100, "topk", 3), "loss is judged, not timed"),
        (Unit(Part.REDUCE, 197, 100, "magic"), "do not know what method 'magic' costs"),
        (Unit(Part.SCHEDULE, 197, 100, "f" * 64), "needs its schedule"),
    ],
)
def test_what_has_no_latency_is_refused(unit, sentence):
    with pytest.raises(InputError, match=sentence):
        true_ns("jetson-nano", SMALL, unit, 1, "fp32")


def test_an_unknown_board_is_refused_by_name():
    for text in ("jetson-tx3", "jetson-tx3:noise=0.1"):
        with pytest.raises(InputError, match=r"'jetson-tx3'; known: jetson-nano, jetson-tx2"):
            virtual.profile(text)


def test_a_board_answers_to_its_other_names():
    for alias, name in named_boards.ALIASES.items():
        assert virtual.profile(alias) is not None
        assert virtual.profile(alias) == virtual.profile(name)


def test_weighing_keys_by_their_sizes_costs_a_little_more_and_other_labels_are_refused():
    plain, sized = (
        true_ns("jetson-tx2", SMALL, Unit(Part.ATTENTION, 99, 99, label), 1, "fp32") for label in ("", SIZED)
    )

    assert plain < sized < 1.2 * plain
    with pytest.raises(InputError, match="attention is plain or sized, not 'seized'"):
        true_ns("jetson-tx2", SMALL, Unit(Part.ATTENTION, 99, 99, "seized"), 1, "fp32")


def test_sentinels_are_the_model_wherever_they_stand_in_a_round():
    assert {true_ns("jetson-tx2", SMALL, Unit(Part.SENTINEL, 197, 197, label), 1, "fp32") for label in ("", "1")} == {
        model_ns("jetson-tx2", 197)
    }


def test_reversals_make_more_tokens_faster_here_and_there_and_are_part_of_the_truth():
    text = "jetson-tx2:reversals=0.2,seed={}"
    curves = [[model_ns(text.format(seed), n) for n in range(2, 198)] for seed in (1, 2)]
    plain = [model_ns("jetson-tx2", n) for n in range(2, 198)]

    for curve in curves:
        down = [n for n in range(2, 197) if curve[n - 1] < 0.99 * curve[n - 2]]
        assert 2 <= len(down) <= 20
        assert all(1.0 <= made / best < 1.3 for made, best in zip(curve, plain))
    assert curves[0] != curves[1]
    # Noise and disturbances are not.
    assert model_ns("jetson-tx2:noise=0.2,bursts=0.5,throttle=0.3,seed=9", 100) == model_ns("jetson-tx2", 100)


def test_a_sample_depends_on_seed_and_key_alone(make_job):
    units = [Unit(Part.MODEL, n, n) for n in (50, 100)]
    one, other = (VirtualBackend(make_job(units, spec=SMALL_SPEC), "jetson-tx2") for _ in range(2))
    reseeded = VirtualBackend(make_job(units, spec=SMALL_SPEC, seed=8), "jetson-tx2")

    first = [one.measure(unit, number, 3) for unit in units for number in (0, 1)]
    backwards = [other.measure(unit, number, 3) for unit in reversed(units) for number in (1, 0)]

    assert first == backwards[::-1]
    assert len({tuple(samples) for samples in first}) == 4
    assert reseeded.measure(units[0], 0, 3) != first[0]


def test_noise_is_about_a_percent_and_skewed_to_the_right():
    samples = virtual.sample_ns(1e7, 20_000, random.Random(1), virtual.Noise())
    ordered = sorted(sample / 1e7 for sample in samples)

    assert ordered[0] > 0.99
    assert 1.0 < ordered[2000] < 1.003
    assert statistics.median(ordered) == pytest.approx(1.007, abs=0.002)
    assert ordered[-1] > 1.5
    assert sum(value > 1.1 for value in ordered) < 0.01 * len(ordered)


def test_noise_is_as_large_as_the_profile_asks(make_job):
    unit = Unit(Part.MODEL, 100, 100)
    truth = model_ns("jetson-tx2", 100)
    made = VirtualBackend(make_job([unit], spec=SMALL_SPEC), "jetson-tx2:noise=0.03,spikes=0").measure(unit, 0, 4000)
    ordered = sorted(sample / truth for sample in made)

    # The quiet figure of an exponential scatter of 3 % lies 0.3 % above the truth.
    assert ordered[400] == pytest.approx(1.003, abs=0.002)
    assert statistics.median(ordered) == pytest.approx(1.021, abs=0.003)
    assert statistics.stdev(ordered) == pytest.approx(0.03, rel=0.1)
    assert ordered[-1] < 1.4
    silent = VirtualBackend(make_job([unit], spec=SMALL_SPEC), "jetson-tx2:noise=0,spikes=0")
    assert silent.measure(unit, 0, 2) == [round(truth)] * 2


def test_a_seed_of_the_profile_makes_another_board_of_the_same_truth(make_job):
    unit = Unit(Part.MODEL, 100, 100)
    boards = ("jetson-tx2", "jetson-tx2:noise=0.01", "jetson-tx2:seed=0", "jetson-tx2:seed=5")
    plain, said, zero, other = (VirtualBackend(make_job([unit], spec=SMALL_SPEC), text) for text in boards)

    samples = plain.measure(unit, 0, 3)
    # The options' defaults are those of the board without options.
    assert said.measure(unit, 0, 3) == samples == zero.measure(unit, 0, 3)
    assert other.measure(unit, 0, 3) != samples


def quiet_board(make_job, options):
    return VirtualBackend(make_job([MODEL], spec=SMALL_SPEC), "jetson-tx2:noise=0,spikes=0," + options)


MODEL = Unit(Part.MODEL, 197, 197)
TRUTH = model_ns("jetson-tx2", 197)


def test_disturbances_depend_on_virtual_time_and_only_slow_down(make_job):
    one, other = (quiet_board(make_job, "drift=0.1,bursts=0.3") for _ in range(2))
    first = one.measure(MODEL, 0, 200)

    assert other.measure(MODEL, 0, 200) == first
    # Another process starts its time anew; later in this one the same key meets something else.
    assert one.measure(MODEL, 0, 200) != first
    assert min(first) >= round(TRUTH)
    assert max(first) > 1.5 * TRUTH


def test_a_throttled_board_is_slower_where_its_clock_counts_and_says_so(make_job):
    board = quiet_board(make_job, "throttle=0.4,throttle-after-seconds=1,throttle-for-seconds=1")
    made = board.measure(MODEL, 0, 1)
    before = board.telemetry()
    made += board.measure(MODEL, 1, 200)

    slow = model_ns(dataclasses.replace(virtual.profile("jetson-tx2"), clock_mhz=0.6 * 1300.5), 197)
    assert set(made) == {round(TRUTH), round(slow)}
    # Launches and memory do not mind the clock.
    assert 1.3 < slow / TRUTH < 1 / 0.6
    states = [ns == round(slow) for ns in made]
    changes = [index for index in range(1, len(states)) if states[index] != states[index - 1]]
    assert made[: changes[0]] == [round(TRUTH)] * math.ceil(1e9 / TRUTH)
    # Hot for a second, cool for a second.
    assert len(changes) >= 6
    assert (before.gpu_mhz, before.throttled, before.governor) == (1300.5, "", "modelled")


def test_a_throttled_board_tells_its_clock_as_modelled(make_job):
    board = quiet_board(make_job, "throttle=0.4,throttle-after-seconds=1")
    board.measure(MODEL, 0, 100)

    told = board.telemetry()
    assert (told.gpu_mhz, told.throttled) == (pytest.approx(0.6 * 1300.5), "modelled: hot")
    # It stays down: how long for was not said.
    board.measure(MODEL, 0, 100)
    assert board.telemetry().throttled
    assert quiet_board(make_job, "drift=0.1").telemetry() is None
    assert quiet_board(make_job, "seed=1").telemetry() is None


def test_a_board_without_noise_tells_the_truth():
    assert virtual.sample_ns(1234.4, 2, random.Random(1), virtual.Noise(0.0, 0.0, 0.0)) == [1234, 1234]


def test_too_large_a_batch_does_not_fit(make_job):
    unit = Unit(Part.MODEL, 197, 197)

    with pytest.raises(OutOfMemory):
        VirtualBackend(make_job([unit], spec=SMALL_SPEC, batch=4096), "jetson-nano").measure(unit, 0, 1)
    large = VirtualBackend(make_job([unit], spec=SMALL_SPEC, batch=4096), "a100")
    assert large.peak_memory_bytes() is None
    assert large.measure(unit, 0, 1)
    assert large.peak_memory_bytes() == virtual.memory_needed_bytes(virtual.profile("a100"), SMALL, unit, 4096, "fp32")
    # 85 MB of weights in the blocks, and 8 widths of each token in fp32.
    assert large.peak_memory_bytes() > 85e6 + 4096 * 197 * 384 * 4


def test_a_virtual_job_needs_a_board_and_a_dtype_that_it_has(make_job):
    with pytest.raises(InputError, match="belongs to virtual boards alone"):
        VirtualBackend(make_job(), "")
    with pytest.raises(InputError, match="jetson-nano cannot compute in bf16"):
        VirtualBackend(make_job(dtype="bf16"), "jetson-nano")


def test_torch_is_not_imported():
    program = (
        "import sys, tailfleet_agent.worker.backends.virtual, tailfleet_agent.worker.run,"
        " tailfleet_agent.worker.protocol; sys.exit(bool({'torch', 'numpy', 'timm'} & set(sys.modules)))"
    )

    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
