"""``tailfleet job`` as people use it, against the real application."""

import dataclasses

import pytest

from tailfleet_coordinator.cli import campaign, job
from tailfleet_coordinator.client import Fleet
from tailfleet_coordinator.replies import JobOrder
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import CampaignState, CampaignStatus, StepStatus
from tailfleet_schema.curve import Part, Unit, UnitResult
from tailfleet_schema.errors import Blame, LabError, TailfleetError
from tailfleet_schema.job import Effort, Failure, Job, JobKind
from tailfleet_schema.messages import Outcome
from tailfleet_schema.workload import Workload


@pytest.fixture
def board(live):
    return live.board("modelled", BoardKind.VIRTUAL)


@pytest.fixture
def order(live, board):
    live.lab.campaign("c1", "modelled")
    return live.lab.sweep("c1", board)


def test_nothing_to_list(cli):
    assert "no such job" in cli("job", "list")


def test_a_failed_job(live, cli, board, order):
    live.lab.claim(board)
    cause = Failure("the measured child was ended by signal 9", Blame.LAB, "what it said last\n")
    live.lab.store.finish_job(board, order.id, 1, Outcome.FAILED, cause, "one\nwhat it said last\n")
    listed = cli("job", "list", "--state", "failed")
    for words in (order.id, "modelled (virtual)", "0/4", "signal 9", "→ the lab"):
        assert words in listed
    shown = cli("job", "show", order.id[:3])
    for words in (
        f"job {order.id}: sweep of tiny on modelled (VIRTUAL board",
        "state failed, 0 of 4 results stored",
        "must act the lab: power, memory, network or drivers of the board",
        "counts 5 17 (2 counts)",
        "2 rounds of 1 calls",
        "fingerprint",
        "unchanged",
        "attempt 1 0 results; its log ends: what it said last",
    ):
        assert words in shown
    assert cli("job", "log", order.id) == "one what it said last"


def test_a_job_that_waits_runs_and_is_cancelled(live, cli, board, order):
    assert "was never given" in cli("job", "log", order.id)
    live.lab.claim(board)
    assert "nothing is heard yet" in cli("job", "log", order.id)
    assert "attempt 1 holds it until" in cli("job", "show", order.id)
    assert "is to stop before its next count" in cli("job", "cancel", order.id)
    assert "leased, asked to stop" in cli("job", "list")
    live.lab.store.finish_job(board, order.id, 1, Outcome.CANCELLED, None, "")
    assert "why the job was cancelled by operator 'op'" in cli("job", "show", order.id)
    assert "must act" not in cli("job", "show", order.id)
    with pytest.raises(TailfleetError, match="cancelled already") as refusal:
        cli("job", "cancel", order.id)
    # Which the entry point turns into exit status 2.
    assert refusal.value.blame is Blame.AUTHOR


def test_following_a_log_over_attempts_until_the_job_ends(live, board, order, capsys):
    store = live.lab.store

    def say(attempt, log):
        return lambda: store.renew_lease(board, order.id, attempt, 60.0, log)

    def again():
        store.take_back_jobs(board)
        live.lab.claim(board)

    happens = iter(
        [
            lambda: live.lab.claim(board),
            say(1, "a\n"),
            say(1, "a\nb\n"),
            lambda: None,
            again,
            say(2, "c\n"),
            lambda: store.finish_job(board, order.id, 2, Outcome.FAILED, Failure("no", Blame.BUG), "c\nd\n"),
        ]
    )
    with Fleet(live.url, live.viewer) as fleet:
        job.follow_log(fleet, order.id, None, lambda: next(happens)())
        assert capsys.readouterr().out == "a\nb\n--- attempt 2 ---\nc\nd\n"
        job.follow_log(fleet, order.id, 1, lambda: pytest.fail("attempt 1 is over"))
        assert capsys.readouterr().out == "a\nb\n"
    assert next(happens, None) is None


def test_what_is_new_in_a_growing_log_whose_beginning_is_cut_off():
    lines = [f"{number:05d}\n" for number in range(300)]
    assert job.news("", "a\n") == "a\n"
    assert job.news("".join(lines[:200]), "".join(lines[:250])) == "".join(lines[200:250])
    assert job.news("".join(lines[:200]), "".join(lines[50:250])) == "".join(lines[200:250])
    assert job.news("".join(lines[:10]), "".join(lines[100:])) == "".join(lines[100:])


def test_orders_in_words():
    assert job.counts_words([2]) == "2 (1 counts)"
    assert job.counts_words([2, 3, 5, 7, 8, 9]) == "2 3 5 7–9 (6 counts)"
    order = JobOrder("eager", "fp32", 1, "auto", 3, 5, 9, ["model"], [5], ["topk"], [], "digits", None, 7)
    lines = job.order_words(order)
    assert lines[0] == "runs        eager fp32, batch 1, attention auto"
    assert lines[1] == "order       9 units (model) in 3 rounds of 5 calls, seed 7"
    assert lines[-1] == "images      digits, all of its split"
    lines = job.order_words(dataclasses.replace(order, effort=Effort(0.01, 30, 60.0, 2)))
    assert lines[1] == "order       at least 9 units (model) in at least 3 rounds of 5 calls, seed 7"
    assert lines[2] == (
        "goes on     until each is known to ±1 %, refining the curve from 2 tokens on; for at most 60 s and 30 rounds"
    )


def test_an_open_ended_job_says_what_it_runs_on_and_in_which_round_it_is(live, cli, board):
    live.lab.campaign("c1", "modelled")
    units = [Unit(Part.MODEL, n, n) for n in (5, 17)]
    open_ended = Job(
        "c1-open",
        JobKind.SWEEP,
        Workload(live.lab.model),
        units,
        2,
        1,
        0,
        effort=Effort(budget_seconds=9, most_rounds=8),
    )
    assert live.lab.store.create_job("c1", board, "tiny", open_ended)
    assert "0 results stored so far, 4 at least in the end campaign" in cli("job", "show", "c1-open")
    live.lab.claim(board)
    live.lab.add(board, open_ended, 1, [UnitResult(units[0], number, [9]) for number in range(3)])
    live.lab.sql("UPDATE jobs SET runtime_json = ?", '{"threads": "2 threads", "device": "cpu", "torch": "2.9"}')
    shown = cli("job", "show", "c1-open")
    assert ", round 3 " in shown
    assert "for at most 9 s and 8 rounds" in shown
    assert "runtime device cpu, 2 threads, torch 2.9" in shown
    assert "leased 3/4 3 1 " in cli("job", "list")
    (status,) = live.lab.store.list_steps("c1")
    live.lab.store.update_step(status.id, "sweep", "")
    assert "sweep 3/4 round 3" in cli("campaign", "status", "c1")


def test_a_campaign_says_for_each_failed_step_who_must_act(live, cli):
    torch = Failure("torch is not installed", Blame.CONFIGURATION)
    asked = Failure("the job was cancelled by operator 'op'", Blame.AUTHOR)
    steps = [
        StepStatus("a", "tiny", "failed", 0, 0, torch.sentence, torch),
        StepStatus("b", "tiny", "cancelled", 0, 0, asked.sentence, asked),
        StepStatus("c", "tiny", "done", 0, 0),
    ]
    with pytest.raises(LabError) as told:
        campaign.raise_unless_done(CampaignStatus("c1", CampaignState.DONE, "", steps))
    assert told.value.sentence == (
        "campaign c1 ended done: a × tiny: torch is not installed → the installation: a package or a setting is"
        " missing; b × tiny: the job was cancelled by operator 'op'"
    )
    assert told.value.mend == "tailfleet job list --campaign c1 tells more"
    board_id = live.board("nano")
    live.lab.campaign("c1", "nano")
    (step,) = live.lab.store.list_steps("c1")
    live.lab.store.update_step(step.id, "failed", torch.sentence, failure=torch)
    assert board_id
    assert "torch is not installed) → the installation" in cli("campaign", "status", "c1")
