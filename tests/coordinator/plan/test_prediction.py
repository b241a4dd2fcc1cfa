import numpy as np
import pytest

from tailfleet_coordinator.plan.prediction import Doubt, Prediction


def prediction(ns, doubt, fall=(0.0,), rise=(0.0,)):
    return Prediction(ns, doubt, False, False, fall, rise)


def test_errors_of_the_curve_add_up_and_all_else_comes_on_top_in_quadrature():
    assert Doubt(3.0, 1.0, 3.0).half_ns == pytest.approx(5.0)
    assert Doubt(3.0, 1.0, 3.0).times(2.0).half_ns == pytest.approx(10.0)


def test_what_both_have_in_common_is_no_doubt_about_which_is_faster():
    dense = prediction(100.0, Doubt(4.0))
    alike = prediction(99.0, Doubt(4.0))
    assert alike.margin_ns(dense) == 0.0
    late, early = prediction(95.0, Doubt(3.0, 0.0, 1.0)), prediction(95.0, Doubt(1.0, 0.0, 1.0))
    assert late.margin_ns(dense) == pytest.approx(np.hypot(1.0, 1.0))
    assert early.margin_ns(dense) == pytest.approx(np.hypot(3.0, 1.0))
    assert late.margin_ns(dense) == dense.margin_ns(late)


def test_what_each_has_of_its_own_counts_whole():
    one, other = prediction(90.0, Doubt(2.0, 3.0, 1.0)), prediction(80.0, Doubt(2.0, 4.0, 2.0))
    assert one.margin_ns(other) == pytest.approx(np.linalg.norm([3.0, 1.0, 4.0, 2.0]))


def test_a_tail_in_common_counts_by_its_difference_beside_it():
    one, other = prediction(90.0, Doubt(rest_ns=3.0), (5.0,), (5.0,)), prediction(100.0, Doubt(), (9.0,), (5.0,))
    assert one.margin_ns(other) == pytest.approx(5.0)
