import os

from tailfleet_agent.spool import Spool
from tailfleet_schema.curve import Part, Unit, UnitResult
from tailfleet_schema.messages import FinishRequest, Outcome


def result(tokens):
    return UnitResult(Unit(Part.MODEL, tokens, tokens), 0, [tokens * 10])


def test_results_are_kept_in_order_until_delivered(tmp_path):
    entry = Spool(str(tmp_path)).entry("job", 1)
    for tokens in (5, 6, 7):
        entry.append(result(tokens))
    assert entry.pending(2) == [result(5), result(6)]
    entry.delivered(2)
    assert entry.pending(10) == [result(7)]


def test_another_process_finds_what_was_left(tmp_path):
    left = Spool(str(tmp_path)).entry("a.b", 3)
    left.append(result(5))
    left.finish(FinishRequest(3, Outcome.DONE))
    (found,) = Spool(str(tmp_path)).entries()
    assert (found.job, found.attempt) == ("a.b", 3)
    assert found.pending(10) == [result(5)]
    assert found.finished() == FinishRequest(3, Outcome.DONE)


def test_a_line_cut_short_is_passed_over_and_the_rest_survives(tmp_path):
    entry = Spool(str(tmp_path)).entry("job", 1)
    entry.append(result(5))
    with open(os.path.join(str(tmp_path), "job.1", "results.jsonl"), "ab") as file:
        file.write(b'{"unit":{"part":"mo')
    assert entry.pending(10) == [result(5)]
    entry.delivered(1)
    assert entry.pending(10) == []


def test_a_dropped_entry_is_gone(tmp_path):
    spool = Spool(str(tmp_path))
    spool.entry("job", 1).append(result(5))
    spool.entry("job", 1).drop()
    assert spool.entries() == []


def test_an_entry_without_results_has_nothing_pending(tmp_path):
    entry = Spool(str(tmp_path)).entry("job", 1)
    assert entry.pending(10) == []
    assert entry.finished() is None


def test_what_results_were_measured_on_waits_with_them(tmp_path):
    left = Spool(str(tmp_path)).entry("job", 1)
    assert left.runtime() == {}
    left.tell_runtime({"device": "a chip"})
    (found,) = Spool(str(tmp_path)).entries()
    assert found.runtime() == {"device": "a chip"}
