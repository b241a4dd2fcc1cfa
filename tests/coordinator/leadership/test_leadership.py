"""Keeping the hold on the database: renewed, taken over, out of reach for a while or for too long. No time passes."""

import pytest

from tailfleet_coordinator.db.store import Store
from tailfleet_coordinator.leadership import RENEWALS, Leadership
from tailfleet_coordinator.refusals import AnotherWriter, Deposed
from tailfleet_schema.errors import LabError

SECONDS = 15.0
BETWEEN = SECONDS / RENEWALS


class Beats:
    """The event that a thread waits on: each wait lets its seconds pass, and does what is next; then it is set."""

    def __init__(self, *acts):
        self.now = 0.0
        self.waits = 0
        self._acts = list(acts)

    def wait(self, seconds):
        self.now += seconds
        self.waits += 1
        if not self._acts:
            return True
        self._acts.pop(0)()
        return False


def nothing():
    pass


@pytest.fixture
def second(lab):
    """Another coordinator's store on the same database."""
    store = Store(lab.url)
    yield store
    store.close()


def expire(lab):
    lab.sql("UPDATE leadership SET expires_at = '2020-01-01 00:00:00.000000'")


def run(lab, *acts):
    beats = Beats(*acts)
    leadership = Leadership(lab.store, SECONDS, lambda: beats.now)
    leadership.take("first", "first-key")
    leadership.run(beats)
    return leadership, beats


def test_the_hold_is_renewed_several_times_before_it_runs_out(lab, second):
    leadership, beats = run(lab, lambda: expire(lab), nothing)
    assert beats.now / beats.waits == pytest.approx(BETWEEN)
    assert leadership.lost is None
    with pytest.raises(AnotherWriter, match=r"\(first\)"):
        second.take_leadership("second", "second-key", SECONDS)


def test_who_was_replaced_stops_asking_and_names_the_new_holder(lab, second, caplog):
    def take_over():
        expire(lab)
        second.take_leadership("the other one", "second-key", SECONDS)

    leadership, beats = run(lab, nothing, take_over, nothing, nothing)
    assert isinstance(leadership.lost, Deposed)
    assert "the other one has taken over" in leadership.lost.sentence
    assert beats.waits == 2
    assert "the other one has taken over" in caplog.text
    leadership.end()
    with pytest.raises(AnotherWriter, match="the other one"):
        Store(lab.url).take_leadership("third", "third-key", SECONDS)


def test_a_database_that_is_away_for_less_than_the_hold_is_asked_again(lab):
    away = lambda: lab.sql("ALTER TABLE leadership RENAME TO elsewhere")  # noqa: E731
    back = lambda: lab.sql("ALTER TABLE elsewhere RENAME TO leadership")  # noqa: E731
    leadership, _ = run(lab, nothing, away, nothing, back, nothing)
    assert leadership.lost is None


def test_a_database_that_is_away_for_longer_ends_the_coordinator(lab):
    leadership, beats = run(lab, lambda: lab.sql("ALTER TABLE leadership RENAME TO elsewhere"), *[nothing] * 9)
    assert isinstance(leadership.lost, LabError)
    assert "could not be renewed for 15 s" in leadership.lost.sentence
    assert beats.now == SECONDS


def test_a_clean_end_lets_the_next_one_in_at_once(lab, second):
    leadership, _ = run(lab)
    leadership.end()
    assert second.take_leadership("second", "second-key", SECONDS) == 2


def test_of_two_that_come_first_at_once_one_is_let_in(lab, second):
    """What the second one sees where it looked before the first one's row was there."""
    assert lab.store.take_leadership("first", "first-key", SECONDS) == 1
    with pytest.raises(AnotherWriter):
        second.take_leadership("second", "second-key", SECONDS)
    assert lab.sql("SELECT epoch, holder FROM leadership") == [(1, "first")]
