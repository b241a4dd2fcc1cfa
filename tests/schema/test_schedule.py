import pytest

from tailfleet_schema import codec, schedule
from tailfleet_schema.errors import ScheduleError
from tailfleet_schema.schedule import (
    Schedule,
    fewest_leaving,
    first_reducing,
    flops,
    flops_per_block,
    lead,
    smallest_reachable,
)
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
        ("random", 197, 1, 2),
        ("random", 197, 0, 1),
        ("topk", 197, 1, 2),
        ("topk", 1, 0, 1),
        ("evit", 197, 1, 3),
        ("evit", 197, 5, 7),
        ("evit", 6, 5, 6),
        ("pomt", 197, 1, 3),
        ("pomt", 2, 1, 2),
        ("zero-tprune", 197, 1, 2),
        ("zero-tprune", 201, 5, 6),
        ("cropr", 197, 1, 2),
        ("cropr", 198, 2, 3),
        ("tome", 197, 1, 99),
        ("tome", 198, 2, 100),
        ("tome", 196, 0, 98),
        ("tome", 201, 5, 103),
        ("tome", 6, 5, 6),
        ("tome", 7, 5, 6),
    ],
)
def test_smallest_reachable(method, tokens, prefix, least):
    assert smallest_reachable(method, tokens, prefix) == least
    Schedule(method, "m", tokens, prefix, [least])
    with pytest.raises(ScheduleError, match="can leave no fewer than {} of {} tokens".format(least, tokens)):
        Schedule(method, "m", tokens, prefix, [least - 1])


def test_every_method_has_a_smallest_count_and_an_unknown_one_has_none():
    assert all(1 < smallest_reachable(method, 197, 1) <= 197 for method in schedule.PLACEMENT)
    with pytest.raises(ScheduleError, match="unknown method 'magic'; known: cropr, dense, "):
        smallest_reachable("magic", 197, 1)


@pytest.mark.parametrize(
    ("method", "fewest"),
    [("tome", [99, 50, 26, 14, 8, 5, 3, 2, 2]), ("topk", [2] * 9), ("evit", [3] * 9), ("dense", [197] * 9)],
)
def test_several_blocks_leave_fewer_than_one(method, fewest):
    assert [fewest_leaving(method, 197, 1, block) for block in range(9)] == fewest


@pytest.mark.parametrize("method", ["tome", "topk", "evit"])
@pytest.mark.parametrize(("tokens", "prefix"), [(17, 1), (18, 1), (16, 0), (19, 5), (7, 6)])
def test_a_count_is_led_up_to_as_late_and_as_little_as_can_be(method, tokens, prefix):
    for block in range(4):
        for kept in range(1, tokens + 1):
            if kept < fewest_leaving(method, tokens, prefix, block):
                with pytest.raises(ScheduleError, match="{} cannot leave {} of {}".format(method, kept, tokens)):
                    lead(method, tokens, prefix, block, kept)
                continue
            leaving = lead(method, tokens, prefix, block, kept)
            assert len(leaving) == block + 1
            assert leaving[-1] == kept
            Schedule(method, "m", tokens, prefix, leaving)
            first = first_reducing(method, tokens, prefix, block, kept)
            assert leaving[:first] == [tokens] * first
            for place in range(block):
                if leaving[place] < tokens:
                    # One token more would be too many for the block behind it.
                    assert smallest_reachable(method, leaving[place] + 1, prefix) > leaving[place + 1]
            assert (first == block) == (kept == tokens or smallest_reachable(method, tokens, prefix) <= kept)


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
        (("topk", "m", 197, 1, [100], None, {"alpha": 1}), "^parameters: method 'topk' has no parameter 'alpha'"),
        (("topk", "m" * 129, 197, 1, [100]), "^model: "),
        (("topk", "m", 2**40, 1, [100]), "^tokens: "),
        (("topk", "", 197, 1, [100]), "^model: "),
        (("topk", "m", 0, 0, [100]), "^tokens: "),
        (("topk", "m", 197, -1, [100]), "^prefix: "),
    ],
)
def test_a_schedule_that_cannot_be_followed_is_refused(arguments, words):
    with pytest.raises(ScheduleError, match=words):
        Schedule(*arguments)


@pytest.mark.parametrize("method", ["random", "topk", "zero-tprune", "cropr"])
def test_all_tokens_enter_the_block_before_which_they_are_restored(method):
    plan = Schedule(method, "m", 10, 1, [9, 9, 6, 10, 4], 3)
    assert plan.entering == [10, 9, 9, 10, 10]
    assert plan.reducing_blocks == [0, 2, 4]
    assert not plan.is_dense
    assert Schedule(method, "m", 10, 1, [10, 10, 10], 2).is_dense


def test_restoring_costs_what_all_tokens_cost():
    """ViT-L under Cropr with last-layer fusion: after every block but the last two 8 leave, the first time 9."""
    keep = [197 - 8 * (block + 1) - 1 for block in range(22)]
    fused = Schedule("cropr", "m", 197, 1, [*keep, keep[-1], 197], 23)
    per_block = flops_per_block(fused, VIT_L)
    assert per_block[0] == per_block[23] == schedule.block_flops(1024, 4096, 197, 197)
    assert per_block[22] == schedule.block_flops(1024, 4096, 20, 20)
    # Reduction lies behind a block, so its MLP sees what enters the block: published are 44 % fewer multiply-adds.
    assert per_block[1] == schedule.block_flops(1024, 4096, 188, 188)
    dense = flops(schedule.dense("m", VIT_L), VIT_L)
    assert round(1 - flops(fused, VIT_L) / dense, 2) == 0.44


@pytest.mark.parametrize(
    ("method", "keep", "block", "words"),
    [
        ("pomt", [8, 8, 10], 2, "^restore_before: is not known to method 'pomt', which joins tokens or drops none"),
        ("evit", [8, 8, 10], 2, "^restore_before: is not known to method 'evit'"),
        ("tome", [8, 8, 10], 2, "^restore_before: is not known to method 'tome'"),
        ("dense", [10, 10, 10], 2, "^restore_before: is not known to method 'dense'"),
        ("cropr", [8, 8, 10], 0, "^restore_before: must be a block from 1 to 2, not 0"),
        ("cropr", [8, 8, 10], 3, "^restore_before: must be a block from 1 to 2, not 3"),
        ("cropr", [8, 8, 10], -1, "^restore_before: must be a block from 1 to 2, not -1"),
        ("cropr", [10], 1, "^restore_before: a model of 1 block has none before which tokens could be put back"),
        ("cropr", [], 1, "^keep: is empty"),
        ("cropr", [8, 9, 10], 2, r"^keep\[1\]: 9, but only 8 tokens arrive"),
        ("cropr", [8, 8, 11], 2, r"^keep\[2\]: 11, but only 10 tokens arrive"),
        ("cropr", [8, 10, 8], 2, r"^keep\[1\]: 10, but only 8 tokens arrive"),
    ],
)
def test_restoring_where_it_cannot_be_is_refused(method, keep, block, words):
    with pytest.raises(ScheduleError, match=words):
        Schedule(method, "m", 10, 1, keep, block)


WHOLE = "must be a whole number from 0 to {}, not ".format(schedule.COUNT_MAX)
FLAG = "must be true or false, not "


@pytest.mark.parametrize(
    ("method", "name", "good", "bad", "sentence"),
    [
        ("random", "seed", [0, 1, schedule.COUNT_MAX], [-1, schedule.COUNT_MAX + 1, 1.0, "1", True, None, []], WHOLE),
        ("zero-tprune", "similar", [0, 10, 196], [-1, schedule.COUNT_MAX + 1, 0.5, "10", False, None], WHOLE),
        ("zero-tprune", "uniform", [True, False], [0, 1, "true", None, {}], FLAG),
        ("tome", "proportional", [True, False], [0, 1, "false", None], FLAG),
    ],
)
def test_parameters_are_checked_one_by_one(method, name, good, bad, sentence):
    for value in good:
        made = Schedule(method, "m", 197, 1, [190, 180], None, {name: value})
        assert codec.loads(Schedule, codec.dumps(made)) == made
    for value in bad:
        with pytest.raises(ScheduleError) as refusal:
            Schedule(method, "m", 197, 1, [190, 180], None, {name: value})
        assert str(refusal.value) == "parameters.{}: {}{!r}".format(name, sentence, value)


def test_every_parameter_there_is_has_its_test():
    known = {(method, name) for method, names in schedule.PARAMETERS.items() for name in names}
    assert known == {
        ("random", "seed"),
        ("zero-tprune", "similar"),
        ("zero-tprune", "uniform"),
        ("tome", "proportional"),
    }


@pytest.mark.parametrize("method", sorted(schedule.PLACEMENT))
def test_parameters_of_other_methods_are_refused_by_name(method):
    for other in ("seed", "similar", "uniform", "proportional"):
        if other in schedule.PARAMETERS.get(method, {}):
            continue
        with pytest.raises(ScheduleError) as refusal:
            Schedule(method, "m", 197, 1, [197], None, {other: 1})
        assert str(refusal.value) == "parameters: method {!r} has no parameter {!r}".format(method, other)


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


def test_zero_tprune_can_drop_no_more_than_half_as_similar():
    def made(kept, similar):
        return Schedule("zero-tprune", "m", 26, 1, [26, kept], parameters={"similar": similar})

    assert made(14, 12).keep == [26, 14]
    assert made(20, 1000).keep == [26, 20]  # six go, all of them similar
    with pytest.raises(ScheduleError, match=r"keep\[1\]: 13, but at most 12 of 26 tokens can leave as similar ones"):
        made(13, 13)
