"""The schedules of papers, by the figures that are printed in them."""

import pytest

from tailfleet_schema import published
from tailfleet_schema.errors import ScheduleError
from tailfleet_schema.schedule import dense, flops
from tailfleet_schema.workload import Geometry

DEIT_S = Geometry(12, 384, 6, 1536, 197, 1, 224, 16, 3, 1000)
VIT_L = Geometry(24, 1024, 16, 4096, 197, 1, 224, 16, 3, 1000)


@pytest.mark.parametrize(
    ("schedule", "geometry", "printed"),
    [
        (published.tome("m", DEIT_S, 13), DEIT_S, 2.70),
        (published.tome("m", VIT_L, 8), VIT_L, 30.96),
        (published.tome("m", VIT_L, 8, -1), VIT_L, 22.32),
        (published.evit("m", DEIT_S, 0.7, fused=False), DEIT_S, 3.00),
        (published.evit("m", DEIT_S, 0.7), DEIT_S, 3.03),
        (published.zero_tprune("m", DEIT_S), DEIT_S, 3.12),
    ],
    ids=["tome-13", "tome-8", "tome-8-falling", "evit", "evit-fused", "zero-tprune"],
)
def test_published_multiply_adds_come_out(schedule, geometry, printed):
    assert round(flops(schedule, geometry) / 1e9, 2) == printed


def test_cropr_with_fusion_saves_the_published_share():
    schedule = published.cropr("m", VIT_L, 8)
    saved = 1 - flops(schedule, VIT_L) / flops(dense("m", VIT_L), VIT_L)
    assert round(100 * saved) == 44


def test_tomes_schedules_expand_as_published():
    assert published.tome_merged(16, -1, 12) == [32, 29, 26, 23, 20, 17, 14, 11, 8, 5, 2, 0]
    assert published.tome_merged(13, 0, 12) == [13] * 12
    assert published.tome_merged(8, 1, 5) == [0, 4, 8, 12, 16]
    assert published.tome_merged(5, -0.5, 1) == [7]


def test_tome_never_merges_more_than_half_of_the_unprotected():
    schedule = published.tome("m", VIT_L, 8)
    assert schedule.keep[-3:] == [21, 13, 7]
    small = Geometry(3, 12, 2, 24, 10, 2, 8, 2, 3, 4)
    assert published.tome_list("m", small, [100, 1, 0]).keep == [6, 5, 5]


def test_evits_fused_token_is_an_ordinary_one_later():
    assert published.evit("m", DEIT_S, 0.7).keep[3::3] == [140, 100, 72]
    assert published.evit("m", DEIT_S, 1.0).is_dense
    assert published.evit("m", DEIT_S, 0.5, [0], fused=False).method == "topk"


def test_zero_tprune_drops_the_similar_before_it_takes_a_share():
    schedule = published.zero_tprune("m", DEIT_S)
    assert schedule.keep == [187, 187, 159, 159, 159, 119, 119, 119, 76, 76, 66, 66]
    assert schedule.parameters == {"similar": 10}


def test_cropr_removes_as_many_after_every_block_but_the_last_ones():
    small = Geometry(5, 12, 2, 24, 26, 1, 10, 2, 3, 4)
    assert published.cropr("m", small, 4, fusion=False).keep == [21, 17, 13, 9, 9]
    fused = published.cropr("m", small, 4)
    assert (fused.keep, fused.restore_before) == ([21, 17, 13, 13, 26], 4)
    assert fused.entering == [26, 21, 17, 13, 26]
    assert published.cropr("m", small, 0).is_dense


def test_one_block_is_pomts_shape():
    assert published.one_block("pomt", "m", DEIT_S, 100).keep == [197] * 3 + [100] * 9


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: published.tome("m", DEIT_S, -1), "merges r ≥ 0 tokens"),
        (lambda: published.tome("m", DEIT_S, 3, 2.0), "inflection from -1 to 1"),
        (lambda: published.tome_list("m", DEIT_S, [1]), "1 counts for 12 blocks"),
        (lambda: published.evit("m", DEIT_S, 0.0), "above 0 and be at most 1"),
        (lambda: published.one_block("pomt", "m", DEIT_S, 100, 12), "no block 12"),
        (lambda: published.zero_tprune("m", DEIT_S, [1.0]), "1 shares for 5 blocks"),
        (lambda: published.evit("m", DEIT_S, 0.7, [3, 12]), "no block 12 to reduce at; the model has 12"),
        (lambda: published.zero_tprune("m", DEIT_S, [0.9], [0]), "no block 0 to reduce at"),
        (lambda: published.cropr("m", DEIT_S, 40), "cropr can leave no fewer than 2"),
    ],
)
def test_what_cannot_be_is_refused(call, words):
    with pytest.raises(ScheduleError, match=words):
        call()
