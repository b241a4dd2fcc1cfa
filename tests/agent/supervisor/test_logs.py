"""What the measured child said reaches the coordinator, however the job ends."""

import os
import sys

import pytest
from scripted import FACTS, lease

from tailfleet_agent import attend, loop
from tailfleet_agent.runner import Child, forget_old_logs
from tailfleet_schema.errors import Blame
from tailfleet_schema.messages import LOG_BYTES, Outcome, WorkerOrder

SAYS = "sys.stderr.write('it says {}\\n'.format(n)); sys.stderr.flush(); "


@pytest.mark.parametrize(
    ("act", "outcome"),
    [
        ("pass", Outcome.DONE),
        ("n == 1 and os.kill(os.getpid(), signal.SIGKILL)", Outcome.INTERRUPTED),
        ("n == 1 and sys.exit(5)", Outcome.FAILED),
        ("print('nonsense', flush=True)", Outcome.FAILED),
    ],
)
def test_the_log_goes_with_every_end(coordinator, agent, act, outcome):
    coordinator.leases = [lease()]
    agent(SAYS + act).step(FACTS)
    (finish,) = coordinator.finishes
    assert finish.outcome is outcome
    lines = finish.log.splitlines()
    assert "it says 0" in lines
    assert "attempt 1 begins, 0 results known" in finish.log
    assert outcome.value in lines[-1]
    if finish.failure:
        assert finish.failure.sentence in lines[-1]
        assert "it says 0" in finish.failure.detail


def test_the_log_goes_with_a_cancelled_job(coordinator, agent):
    coordinator.cancel = True
    coordinator.leases = [lease()]
    agent(SAYS).step(FACTS)
    (finish,) = coordinator.finishes
    assert finish.outcome is Outcome.CANCELLED
    assert "it says 0" in finish.log
    assert finish.log.endswith("cancelled\n")


def test_the_log_goes_with_a_stopped_agent_and_a_hung_child(coordinator, agent, monkeypatch):
    one = agent(SAYS + "sys.stdin.readline()")
    one._stopping.set()
    one.work(lease())
    monkeypatch.setattr(attend, "UNIT_SECONDS", 0.0)
    monkeypatch.setattr(attend, "SILENT_SECONDS", 0.1)
    agent(SAYS + "sys.stdin.readline()").work(lease(attempt=2))
    stopped, hung = coordinator.finishes
    assert (stopped.outcome, hung.outcome) == (Outcome.INTERRUPTED, Outcome.FAILED)
    assert "the agent was stopped" in stopped.log
    assert "said nothing" in hung.log
    assert hung.failure.blame is Blame.LAB


def test_the_log_is_told_while_the_job_runs(coordinator, agent):
    coordinator.leases = [lease()]
    agent(SAYS).step(FACTS)
    told = [message.log for name, message, _ in coordinator.requests if name == "results"]
    assert len(told) == 6
    for number, log in enumerate(told):
        assert "it says {}\n".format(number) in log
        assert "it says {}\n".format(number + 1) not in log


def test_what_the_child_notes_stands_in_its_log_with_the_time(coordinator, agent):
    coordinator.leases = [lease()]
    agent("n or print(json.dumps({'note': 'building the model'}), flush=True)").step(FACTS)
    (line,) = [line for line in coordinator.finishes[0].log.splitlines() if "building" in line]
    moment, _, words = line.partition(" ")
    assert words == "building the model"
    assert moment.endswith("Z")
    assert len(moment) == len("2026-01-01T00:00:00Z")


def test_bytes_that_are_no_text_break_nothing(coordinator, agent):
    coordinator.leases = [lease()]
    agent("sys.stderr.buffer.write(b'a\\0b\\xff\\n'); sys.stderr.flush()").step(FACTS)
    log = coordinator.finishes[0].log
    assert "a\ufffdb\ufffd\n" in log
    assert "\0" not in log


@pytest.fixture
def child(tmp_path):
    with Child([sys.executable, "-c", ""], WorkerOrder(lease().job), str(tmp_path / "logs" / "a.log")) as child:
        child.wait(20)
        yield child


def test_of_a_long_log_the_end_is_told_from_a_whole_line_on(child, tmp_path):
    (tmp_path / "logs" / "a.log").write_bytes(b"".join(b"%07d\n" % number for number in range(100_000)))
    log = child.log_tail()
    assert LOG_BYTES - 8 <= len(log) <= LOG_BYTES
    assert log.startswith("0091809\n")
    assert log.endswith("0099999\n")
    (tmp_path / "logs" / "a.log").write_bytes(b"x" * (2 * LOG_BYTES))
    assert len(child.log_tail()) == LOG_BYTES


def test_old_logs_are_removed_from_the_board(tmp_path):
    for number in range(6):
        path = tmp_path / "{}.log".format(9 - number)
        path.write_text("")
        os.utime(str(path), (number, number))
    (tmp_path / "something.else").write_text("")
    forget_old_logs(str(tmp_path), 2)
    assert sorted(os.listdir(str(tmp_path))) == ["4.log", "5.log", "something.else"]
    forget_old_logs(str(tmp_path / "nowhere"), 2)


def test_a_board_keeps_the_logs_of_its_last_jobs(coordinator, agent, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "KEPT_LOGS", 2)
    one = agent()
    for attempt in (1, 2, 3):
        one.work(lease(attempt=attempt))
    assert sorted(os.listdir(str(tmp_path / "logs"))) == ["job-1.2.log", "job-1.3.log"]
