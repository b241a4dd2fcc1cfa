"""The model held against published latencies: one it is calibrated to, the others show how far off it is."""

import pytest

from tailfleet_agent.worker.backends.virtual import true_ns
from tailfleet_schema.curve import Part, Unit
from tailfleet_schema.workload import Geometry

SMALL = Geometry(12, 384, 6, 1536, 197, 1, 224, 16, 3, 1000)
BASE = Geometry(12, 768, 12, 3072, 197, 1, 224, 16, 3, 1000)
GIANT = Geometry(40, 1536, 24, 6144, 257, 1, 224, 14, 3, 1000)
"""DINOv2-G; its gated MLP has as many weights as a plain one of this width."""


def curve_ms(board, geometry, batch=1):
    return [0.0] + [
        true_ns(board, geometry, Unit(Part.MODEL, n, n), batch, "fp32") * 1e-6 for n in range(1, geometry.tokens + 1)
    ]


def cliffs(curve, step):
    return [n for n in range(1, len(curve) - 1) if curve[n + 1] > (1 + step) * curve[n]]


def test_deit_s_on_a_tx2_is_what_the_board_is_calibrated_to():
    assert curve_ms("jetson-tx2", SMALL)[197] == pytest.approx(35.3, rel=0.005)


def test_deit_b_on_a_tx2_jumps_where_it_was_measured():
    """Published: near 16, 33 and 65 % of 197 tokens; at 65 % from about 47 to 76 ms."""
    curve = curve_ms("jetson-tx2", BASE)

    assert cliffs(curve, 0.25) == [32, 64, 128]
    assert (curve[128], curve[129]) == (pytest.approx(47, rel=0.18), pytest.approx(76, rel=0.05))


def test_deit_b_on_a_tx2_at_batch_8_has_treads_of_a_twelfth():
    """Published: treads about 8 % wide, which is 16 of 197 tokens, or 128 rows."""
    found = cliffs(curve_ms("jetson-tx2", BASE, 8), 0.05)

    assert {n for n in found if n >= 80} == set(range(80, 197, 16))


def test_dinov2_g_on_an_agx_orin_has_the_height_of_the_step_but_not_the_level():
    """Published: about 57 → 82 ms at 50 % of the tokens, faster than fp32 lanes can be."""
    curve = curve_ms("agx-orin", GIANT)

    assert curve[129] / curve[128] == pytest.approx(82 / 57, rel=0.05)
    assert curve[128] == pytest.approx(57 * 1.42, rel=0.05)
