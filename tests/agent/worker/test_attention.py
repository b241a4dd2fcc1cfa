"""Which kind of attention a job runs with: as asked, as an earlier attempt chose, or as the board is faster."""

import pytest

from tailfleet_agent.worker.backends import OutOfMemory, attention
from tailfleet_schema.errors import ConfigurationError


def never(kind):
    raise AssertionError(kind)


def timers(**taken):
    """Timers whose calls take the given nanoseconds in turn, the last for ever."""
    log = []

    def open_timer(kind):
        values = list(taken[kind])

        def timed():
            log.append(kind)
            return values.pop(0) if len(values) > 1 else values[0]

        return timed

    return open_timer, log


def test_what_is_asked_for_is_not_timed():
    assert attention.choose("fused", {}, "", never) == ("fused", "fused, as asked")
    assert attention.choose("explicit", {}, "", never) == ("explicit", "explicit, as asked")


def test_what_an_earlier_attempt_chose_is_kept_with_its_words():
    words = "explicit, measured 1.90x as fast as fused"

    assert attention.choose("auto", {"attention": words, "device": "CPU"}, "", never) == ("explicit", words)


def test_the_faster_one_is_taken_by_its_quiet_calls():
    open_timer, _ = timers(fused=[900, 150, 150, 1000], explicit=[200])

    kind, words = attention.choose("auto", {}, "", open_timer, now=lambda: 0.0)

    # The quiet call of a dozen decides, not the many slow ones.
    assert kind == "fused"
    assert words == "fused, measured 1.33x as fast as explicit"


def test_the_two_are_timed_in_turn_and_neither_always_first():
    open_timer, log = timers(fused=[1], explicit=[1])

    attention.choose("auto", {}, "", open_timer, now=lambda: 0.0)

    rounds = [log[index : index + 2] for index in range(0, len(log), 2)]
    assert len(rounds) == attention.ROUNDS
    assert all(sorted(pair) == ["explicit", "fused"] for pair in rounds)
    assert {pair[0] for pair in rounds} == {"explicit", "fused"}


def test_a_slow_board_makes_fewer_rounds_but_not_too_few():
    open_timer, log = timers(fused=[1], explicit=[1])
    clock = iter(range(0, 10_000, 100))

    attention.choose("auto", {}, "", open_timer, now=lambda: float(next(clock)))

    assert len(log) == 2 * attention.LEAST_ROUNDS


def test_without_fused_attention_auto_says_why_and_fused_is_refused():
    lacking = "torch 1.10 has no fused attention"

    assert attention.choose("auto", {}, lacking, never) == ("explicit", "explicit, for " + lacking)
    with pytest.raises(ConfigurationError, match="fused attention is asked for, but torch"):
        attention.choose("fused", {}, lacking, never)


def test_where_one_does_not_fit_in_memory_the_smaller_is_taken():
    def open_timer(kind):
        if kind == "explicit":
            raise OutOfMemory("CUDA out of memory")
        return lambda: 1

    assert attention.choose("auto", {}, "", open_timer)[0] == "fused"


def test_any_other_failure_is_told():
    def open_timer(kind):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        attention.choose("auto", {}, "", open_timer)
