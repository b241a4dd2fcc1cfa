"""The order of a sweep, and what is left of it after an interruption."""

import random

import pytest

from tailfleet_agent.worker.run import visits
from tailfleet_schema.curve import JUDGED_PARTS, WHOLE, Part, Unit
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.workload import DatasetSpec

DATASET = DatasetSpec("images", "0" * 64, 10, 10, 10, "drawn")


def test_every_key_comes_exactly_once(make_job):
    job = make_job()

    keys = [unit.key(number) for unit, number in visits(job)]

    assert sorted(keys) == sorted(job.keys())


def test_the_sentinel_opens_every_round(make_job):
    order = visits(make_job(rounds=5))

    firsts = [next(unit for unit, number in order if number == wanted) for wanted in range(5)]

    assert {unit.part for unit in firsts} == {Part.SENTINEL}


def test_further_sentinels_are_evenly_spaced_in_each_round(make_job):
    sentinels = [Unit(Part.SENTINEL, 17, 17, label) for label in ("2", "", "1")]
    job = make_job([*sentinels, *(Unit(Part.MODEL, n, n) for n in range(2, 17))], rounds=2)

    for number in range(2):
        labels = [unit.label for unit, at in visits(job) if at == number and unit.part is Part.SENTINEL]
        places = [i for i, (unit, _) in enumerate(v for v in visits(job) if v[1] == number) if unit in sentinels]
        assert (labels, places) == (["", "1", "2"], [0, 6, 12])


def test_each_round_has_an_order_of_its_own_that_the_seed_decides(make_job):
    def order(seed, number):
        return [unit for unit, at in visits(make_job(seed=seed)) if at == number]

    assert order(7, 0) == order(7, 0)
    assert order(7, 0) != order(7, 1)
    assert order(7, 0) != order(8, 0)


@pytest.mark.parametrize("seed", range(20))
def test_a_resumed_job_runs_exactly_what_is_missing_in_the_same_order(make_job, seed):
    job = make_job(seed=seed)
    whole = visits(job)
    rng = random.Random(seed)
    known = {unit.key(number) for unit, number in whole if rng.random() < rng.random()}

    rest = visits(job, known)

    assert rest == [visit for visit in whole if visit[0].key(visit[1]) not in known]
    assert {unit.key(number) for unit, number in rest} | known == set(job.keys())


def test_known_keys_of_another_job_do_no_harm(make_job):
    job = make_job()

    assert visits(job, [Unit(Part.MODEL, 3, 3).key(0)]) == visits(job)


def test_judged_units_come_once_last_and_by_block(make_job):
    judged = [
        Unit(Part.LOSS, 17, kept, method, block) for kept in (12, 14) for method in ("tome", "topk") for block in (1, 0)
    ]
    timed = [Unit(Part.SENTINEL, 17, 17), Unit(Part.MODEL, 9, 9)]

    order = visits(make_job([*judged, *timed], dataset=DATASET))

    assert [unit.part in JUDGED_PARTS for unit, _ in order] == [False] * 6 + [True] * 8
    assert {number for unit, number in order if unit.part in JUDGED_PARTS} == {0}
    assert [unit.block for unit, _ in order[6:]] == [0] * 4 + [1] * 4


def test_a_judged_unit_that_begins_before_its_block_comes_with_those_of_the_block_where_it_begins(make_job):
    judged = [Unit(Part.LOSS, 17, kept, "tome", block) for kept in (12, 5, 9) for block in (1, 2)]

    order = visits(make_job(judged, dataset=DATASET))

    # 9 leave one block, 5 leave two.
    places = [(unit.block, unit.kept) for unit, _ in order]
    assert places == [(1, 5), (1, 12), (1, 9), (2, 5), (2, 12), (2, 9)]


def test_a_whole_schedule_comes_with_the_units_of_the_block_where_it_first_reduces(make_job, tiny_spec):
    wholes = [Schedule("topk", tiny_spec.name, 17, 1, keep) for keep in ([17, 9], [12, 9], [17, 5], [5, 5], [17, 17])]
    judged = [Unit(Part.LOSS, 17, one.keep[-1], one.digest, WHOLE) for one in wholes]
    judged += [Unit(Part.LOSS, 17, 12, "topk", block) for block in (1, 0)]

    order = visits(make_job(judged, dataset=DATASET, schedules=wholes))

    begun = {one.digest: (one.reducing_blocks or [0])[0] for one in wholes}
    assert [begun.get(unit.label, unit.block) for unit, _ in order] == [0] * 4 + [1] * 3
