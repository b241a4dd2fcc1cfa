import pytest

from tailfleet_schema import codec, schedule
from tailfleet_schema.errors import ScheduleError
from tailfleet_schema.schedule import Schedule, flops, flops_per_block, smallest_reachable
from tailfleet_schema.workload import Geometry

DEIT_S = Geometry(12, 384, 6, 1536, 197, 1, 224, 16, 3, 1000)
VIT_L = Geometry(24, 1024, 16, 4096, 197, 1, 224, 16, 3, 1000)


def one_block(method, kept, block=3, tokens=197, prefix=1, depth=12):
    return Schedule(method, "m", tokens, prefix, [tokens] * block + [kept] * (depth - block))


def test_published_multiply_adds_come_out():
    assert round(flops(schedule.dense("m", DEIT_S), DEIT_S) / 1e9, 2) == 4.60
    tome = Schedule("tome", "m", 197, 1, [197 - 13 * (block + 1) for block in range(12)])
    assert round(flops(tome, DEIT_S) / 1e9, 2) == 2.70
    assert round(flops(schedule.dense("m", VIT_L), VIT_L) / 1e9, 2) == 61.55
    # The last block merges 6, not 8: no more than half of its 12 unprotected tokens.
    large = Schedule("tome", "m", 197, 1, [197 - 8 * (block + 1) for block in range(23)] + [7])
    assert round(flops(large, VIT_L) / 1e9, 2) == 30.96


def test_a_reducing_block_pays_full_attention_and_the_reduced_mlp():
    per_block = flops_per_block(one_block("topk", 99), DEIT_S)
    assert per_block[2] == schedule.block_flops(384, 1536, 197, 197)
    assert per_block[3] == 4 * 197 * 384**2 + 2 * 197**2 * 384 + 8 * 99 * 384**2
    assert per_block[4] == schedule.block_flops(384, 1536, 99, 99)


def test_entering_and_reducing_blocks():
    plan = Schedule("topk", "m", 10, 1, [10, 8, 8, 4])
    assert plan.entering == [10, 10, 8, 8]
    assert plan.reducing_blocks == [1, 3]
    assert not plan.is_dense
    assert schedule.dense("m", DEIT_S).is_dense


@pytest.mark.parametrize(
    ("method", "tokens", "prefix", "least"),
    [
        ("dense", 197, 1, 197),
        ("topk", 197, 1, 2),
        ("topk", 1, 0, 1),
        ("pomt", 197, 1, 3),
        ("pomt", 2, 1, 2),
        ("tome", 197, 1, 99),
        ("tome", 198, 2, 100),
        ("tome", 196, 0, 98),
        ("tome", 201, 5, 103),
    ],
)
def test_smallest_reachable(method, tokens, prefix, least):
    assert smallest_reachable(method, tokens, prefix) == least


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("topk", "m", 197, 1, [197, 198]), r"^keep\[1\]: 198, but only 197 tokens arrive"),
        (("tome", "m", 197, 1, [98]), r"^keep\[0\]: 98, but tome can leave no fewer than 99 of 197"),
        (("pomt", "m", 197, 1, [2]), "no fewer than 3"),
        (("topk", "m", 197, 1, [0]), "no fewer than 2"),
        (("dense", "m", 197, 1, [196]), "no fewer than 197"),
        (("magic", "m", 197, 1, [100]), "unknown method 'magic'"),
        (("topk", "m", 197, 1, []), "keep: is empty"),
        (("topk", "m", 3, 3, [3]), "prefix"),
        (("topk", "m", 197, 1, [100], 0), "restore_before"),
        (("topk", "m", 197, 1, [100], None, {"alpha": 1}), "^parameters: method 'topk' has no parameter 'alpha'"),
        (("topk", "m" * 129, 197, 1, [100]), "^model: "),
        (("topk", "m", 2**40, 1, [100]), "^tokens: "),
    ],
)
def test_a_schedule_that_cannot_be_followed_is_refused(arguments, words):
    with pytest.raises(ScheduleError, match=words):
        Schedule(*arguments)


def test_check_fits_names_what_differs():
    plan = one_block("topk", 99)
    plan.check_fits("m", DEIT_S)
    with pytest.raises(ScheduleError, match="made for model 'm', not for 'other'"):
        plan.check_fits("other", DEIT_S)
    with pytest.raises(ScheduleError, match="has 12 blocks, model 'm' has 24"):
        plan.check_fits("m", VIT_L)
    with pytest.raises(ScheduleError, match=r"^tokens: expects 197 tokens, but model 'm' has 198"):
        plan.check_fits("m", Geometry(12, 384, 6, 1536, 198, 2, 224, 16, 3, 1000))


def test_the_digest_is_of_the_content():
    assert one_block("topk", 99).digest == one_block("topk", 99).digest
    assert one_block("topk", 99).digest != one_block("topk", 100).digest
    again = codec.loads(Schedule, codec.dumps(one_block("topk", 99)))
    assert again.digest == one_block("topk", 99).digest
