"""Campaigns driven over a real store, without Ray: what is ordered, reused, shared, refused, and survives."""

import dataclasses

import pytest

from tailfleet_coordinator import campaigns
from tailfleet_coordinator.cluster.driver import TRIES
from tailfleet_coordinator.cluster.tasks import News
from tailfleet_coordinator.plan import design
from tailfleet_coordinator.plan.wholes import whole_schedules, whole_units
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import CampaignRequest, CampaignState, Measure, Objective, Statistic, SweepSettings
from tailfleet_schema.curve import WHOLE, Judgement, UnitResult
from tailfleet_schema.errors import Blame, InputError
from tailfleet_schema.job import Failure, JobKind, JobState

HALF = Objective(latency_share=0.9)
SWEEP = SweepSettings(counts="all", rounds=2, calls=2)


@pytest.fixture
def virtual(lab):
    return lab.board("modelled", BoardKind.VIRTUAL)


def ask(lab, campaign_id, *boards, **request):
    return lab.campaign(campaign_id, *boards, **{"sweep": SWEEP, **request})


def status(lab, campaign_id="c1"):
    return campaigns.status_of(lab.store, lab.store.get_campaign(campaign_id))


def phases(lab, campaign_id="c1"):
    return {(step.board, step.model): step.phase for step in status(lab, campaign_id).steps}


def test_a_sweep_alone_ends_with_a_curve(lab, campaigning, virtual):
    ask(lab, "c1", "modelled")
    campaigning.run(virtual)
    assert status(lab).state is CampaignState.DONE
    (curve,) = lab.store.list_curves()
    assert (curve.backend, curve.board_kind) == ("virtual", BoardKind.VIRTUAL)
    assert campaigning.tasks.started == []
    assert campaigns.report_of(lab.store, lab.store.get_campaign("c1")).rows == []


def test_progress_counts_stored_keys(lab, campaigning, virtual):
    ask(lab, "c1", "modelled")
    campaigning.driver().advance()
    job = lab.claim(virtual).job
    lab.add(virtual, job, 1, lab.results_of(job)[:7])
    (step,) = status(lab).steps
    assert (step.phase, step.done, step.total) == ("sweep", 7, len(job.keys()))


def test_the_whole_way_to_a_report(lab, campaigning, virtual):
    ask(lab, "c1", "modelled", models=["tiny", "seeing"], methods=["topk", "tome"], objective=HALF)
    campaigning.run(virtual)
    assert status(lab).state is CampaignState.DONE
    assert set(phases(lab).values()) == {"done"}
    rows = campaigns.report_of(lab.store, lab.store.get_campaign("c1")).rows
    assert [(row.model, row.method) for row in rows] == [
        ("tiny", "topk"), ("tiny", "tome"), ("seeing", "topk"), ("seeing", "tome"),
    ]  # fmt: skip
    pruned = [row for row in rows if row.schedule_digest is not None]
    assert pruned
    for row in pruned:
        assert row.board_kind == "virtual"
        assert row.measured_ns < row.dense_ns
        assert (row.top1_dense is None) == (row.model == "tiny")
    verified = [job for job in lab.store.list_jobs("c1") if job.kind is JobKind.VERIFY]
    assert {job.id for job in verified} >= set(lab.store.list_verify_jobs("c1").values()) != set()


@pytest.mark.parametrize(("on", "calls"), [(Statistic.QUIET, 25), (Statistic.P50, 100), (Statistic.P99, 1600)])
def test_plans_and_verifications_are_on_the_statistic_asked_for(lab, campaigning, virtual, on, calls):
    sweep = SweepSettings(counts="all", rounds=5, calls=5)
    ask(lab, "c1", "modelled", objective=Objective(latency_share=0.9, on=on), sweep=sweep)
    campaigning.run(virtual)
    assert status(lab).state is CampaignState.DONE
    (row,) = campaigns.report_of(lab.store, lab.store.get_campaign("c1")).rows
    assert row.on is on
    assert row.recommended
    assert f"faster than dense on {on.value}" in row.verdict
    (verify,) = [lab.store.get_job(job.id) for job in lab.store.list_jobs("c1") if job.kind is JobKind.VERIFY]
    assert verify.rounds * verify.calls == calls


def test_a_sweep_too_short_for_a_tail_is_refused_and_nothing_stored(lab, virtual):
    request = CampaignRequest(
        ["tiny"], ["modelled"], ["topk"], objective=Objective(latency_share=0.9, on=Statistic.P99)
    )
    with pytest.raises(InputError, match=r"a p99 takes 368 calls of the whole model.* --rounds 3 --calls "):
        campaigns.open_campaign(lab.store, request)
    assert lab.sql("SELECT count(*) FROM campaigns") == [(0,)]
    assert campaigns.open_campaign(lab.store, dataclasses.replace(request, objective=None))
    assert campaigns.open_campaign(lab.store, dataclasses.replace(request, objective=HALF))


def test_a_driver_lost_at_every_look_changes_nothing(lab, campaigning, virtual):
    far = lab.board("far", BoardKind.VIRTUAL, machine="machine-2")
    ask(lab, "c1", "modelled", "far", objective=HALF)
    # Its tasks are lost with it: plans are asked for again, and stored once.
    for _ in range(4):
        campaigning.driver().advance()
        campaigning.tasks = type(campaigning.tasks)()
        campaigning.play(virtual)
        campaigning.play(far)
    assert len(lab.store.list_plans("c1")) == 0
    campaigning.run(virtual, far)
    assert status(lab).state is CampaignState.DONE
    assert [job.kind for job in lab.store.list_jobs("c1")].count(JobKind.SWEEP) == 2
    assert {job.attempt for job in lab.store.list_jobs("c1")} == {1}
    assert len(lab.store.list_plans("c1")) == 2


def leaves(lab, name):
    lab.sql(f"UPDATE boards SET last_seen_at = '2026-01-02 03:04:05' WHERE name = '{name}'")


def test_a_board_that_is_offline_is_skipped_where_that_is_wanted(lab, campaigning, virtual):
    lab.board("away", BoardKind.VIRTUAL, machine="machine-2")
    leaves(lab, "away")
    ask(lab, "c1", "away", "modelled", objective=HALF, offline="skip")
    campaigning.run(virtual)
    assert status(lab).state is CampaignState.DONE
    assert phases(lab) == {("away", "tiny"): "cancelled", ("modelled", "tiny"): "done"}
    (skipped, _) = status(lab).steps
    assert skipped.note == "skipped: the board is offline, last seen 2026-01-02 03:04 UTC"
    assert skipped.failure is None
    assert {job.board_id for job in lab.store.list_jobs("c1")} == {virtual}


def test_a_board_that_leaves_in_its_sweep_is_skipped_and_its_job_called_off(lab, campaigning, virtual):
    ask(lab, "c1", "modelled", offline="skip")
    campaigning.driver().advance()
    leaves(lab, "modelled")
    assert not campaigning.driver().advance()
    assert [job.state for job in lab.store.list_jobs("c1")] == [JobState.CANCELLED]
    assert status(lab).state is CampaignState.DONE


def test_a_board_that_is_offline_is_waited_for_unless_told_otherwise(lab, campaigning, virtual):
    leaves(lab, "modelled")
    ask(lab, "c1", "modelled")
    assert campaigning.driver().advance()
    (step,) = status(lab).steps
    assert (step.phase, step.note) == ("sweep", "waits for the board: last seen 2026-01-02 03:04 UTC")
    with pytest.raises(InputError, match=r"offline: unknown: .never.; known: wait, skip"):
        ask(lab, "c2", "modelled", offline="never")


def test_a_fitting_curve_is_reused_and_said_to_be(lab, campaigning, virtual):
    ask(lab, "c1", "modelled")
    campaigning.run(virtual)
    ask(lab, "c2", "modelled", sweep=SweepSettings(counts="5,9", rounds=1, calls=1))
    campaigning.run(campaign_id="c2")
    (step,) = status(lab, "c2").steps
    assert (step.phase, "reuses the curve of" in step.note) == ("done", True)
    assert lab.store.list_jobs("c2") == []


def test_an_unstable_curve_is_measured_again(lab, campaigning, virtual):
    ask(lab, "c1", "modelled")
    campaigning.run(virtual)
    lab.sql("UPDATE curves SET stable = false, unstable_reason = 'a neighbour'")
    ask(lab, "c2", "modelled", sweep=SweepSettings(counts="5,9", rounds=1, calls=1))
    campaigning.driver("c2").advance()
    assert [job.kind for job in lab.store.list_jobs("c2")] == [JobKind.SWEEP]


@pytest.mark.parametrize(
    "request_",
    [
        {"sweep": SweepSettings(counts="all", rounds=3, calls=2)},
        {"sweep": SweepSettings(counts="all", rounds=2, calls=3)},
        {"sweep": SweepSettings(counts="all", rounds=2, calls=2, fresh=True)},
        {"batch": 2},
        {"methods": ["topk", "tome"]},
    ],
)
def test_a_curve_that_does_not_fit_is_measured_again(lab, campaigning, virtual, request_):
    ask(lab, "c1", "modelled")
    campaigning.run(virtual)
    ask(lab, "c2", "modelled", **request_)
    campaigning.driver("c2").advance()
    assert len(lab.store.list_jobs("c2")) == 1


def test_a_board_that_changed_since_is_measured_again(lab, campaigning):
    board = lab.board("nano")
    ask(lab, "c1", "nano")
    campaigning.run(board)
    lab.store.see_board(board, lab.facts_of(torch="2.9"), None)
    ask(lab, "c2", "nano")
    campaigning.driver("c2").advance()
    assert len(lab.store.list_jobs("c2")) == 1


def test_a_model_with_images_without_labels_is_planned_by_agreement(lab, campaigning, virtual):
    pictures = lab.store.get_dataset("pictures")
    lab.store.put_dataset(dataclasses.replace(pictures, classes=0, form="files"))
    ask(lab, "c1", "modelled", models=["seeing", "tiny"], objective=HALF)
    campaigning.run(virtual)
    report = campaigns.report_of(lab.store, lab.store.get_campaign("c1"))
    measures = {"seeing": Measure.AGREEMENT, "tiny": Measure.WORK}
    assert {(row.model, row.measure) for row in report.rows} == set(measures.items())
    assert {(front.model, front.measure) for front in report.fronts} == set(measures.items())
    row = next(row for row in report.rows if row.model == "seeing")
    assert "agreement with the dense model" in row.verdict
    assert row.top1_pruned is None
    assert row.agreement_pruned is not None
    (plan,) = [plan for plan in lab.store.list_plans("c1") if plan.model == "seeing"]
    assert "of agreement with the dense model on 100 calibration images, which have no labels" in plan.plan_json


def test_a_profile_is_taken_once_for_all_boards_and_campaigns(lab, campaigning, virtual):
    far = lab.board("far", BoardKind.VIRTUAL, machine="machine-2")
    ask(lab, "c1", "modelled", "far", models=["seeing"], objective=HALF)
    campaigning.run(virtual, far)
    profiles = [count for name, count in campaigning.tasks.started if name.startswith("profile")]
    assert len(profiles) == 1
    both = ["optimal", "pomt-rule"]
    ask(lab, "c2", "modelled", models=["seeing"], objective=HALF, methods=["topk", "pomt"], planners=both)
    campaigning.run(virtual, campaign_id="c2")
    more = [count for name, count in campaigning.tasks.started if name.startswith("profile")][1:]
    assert len(more) == 2
    found = lab.sql("SELECT DISTINCT part, label FROM profiles WHERE block >= 0 OR part = 'input'")
    assert sorted(found) == [("input", ""), ("loss", "pomt"), ("loss", "topk")]
    assert lab.sql("SELECT count(*) FROM profiles") == [(profiles[0] + sum(more),)]
    # Whole schedules are judged with their method, and each method is planned on its own.
    model = lab.store.get_model("seeing")
    wholes = {one.digest for method in ("topk", "pomt") for one in whole_schedules(model, method)}
    stored = lab.sql("SELECT label FROM profiles WHERE block = -1 AND part = 'loss'")
    assert sorted(label for (label,) in stored) == sorted(wholes)


def test_a_plan_rests_on_whole_schedules_of_its_own_methods(lab, campaigning, virtual, monkeypatch):
    given, plan = [], campaigning.tasks.plan
    monkeypatch.setattr(campaigning.tasks, "plan", lambda name, inputs: given.extend(inputs) or plan(name, inputs))
    ask(lab, "c1", "modelled", models=["seeing"], methods=["topk", "pomt"], objective=HALF)
    campaigning.run(virtual)
    model = lab.store.get_model("seeing")
    for one in given:
        wholes = {result.unit.label for result in one.profile if result.unit.block == WHOLE}
        assert wholes == {whole.digest for whole in whole_schedules(model, one.method)}
    for stored in lab.store.list_plans("c1"):
        assert "on 20 random schedules that they were not fitted to" in stored.plan_json


def test_a_profile_of_an_earlier_release_is_completed_and_what_it_had_besides_is_not_planned_on(
    lab, campaigning, virtual, monkeypatch
):
    model, dataset = lab.store.get_model("seeing"), lab.store.get_dataset("pictures")
    wanted = design.profile_units(model.geometry, "tome") + whole_units(whole_schedules(model, "tome"))
    earlier = [wanted[0], wanted[1], *(dataclasses.replace(wanted[1], block=1, kept=kept) for kept in (16, 15))]
    assert not set(earlier[2:]) & set(wanted)
    results = [UnitResult(unit, 0, judgement=Judgement(100, 98, 100, 0.0, "host", "1" * 98 + "00")) for unit in earlier]
    lab.store.add_profile(model.digest, dataset.sha256, results)
    given, plan = [], campaigning.tasks.plan
    monkeypatch.setattr(campaigning.tasks, "plan", lambda name, inputs: given.extend(inputs) or plan(name, inputs))
    ask(lab, "c1", "modelled", models=["seeing"], methods=["tome"], objective=HALF)
    campaigning.run(virtual)
    assert ("profile:seeing:tome", len(wanted) - 2) in campaigning.tasks.started
    assert [{result.unit for result in one.profile} for one in given] == [set(wanted)]
    assert set(phases(lab).values()) == {"done"}


def test_a_profile_whose_process_dies_goes_on_where_it_was(lab, campaigning, virtual):
    campaigning.tasks.crashes = 2
    ask(lab, "c1", "modelled", models=["seeing"], objective=HALF)
    campaigning.run(virtual)
    counts = [count for name, count in campaigning.tasks.started if name.startswith("profile")]
    assert len(counts) == 3
    assert counts[0] > counts[1] > counts[2]
    assert phases(lab) == {("modelled", "seeing"): "done"}


def test_a_remark_of_a_task_is_logged_and_the_work_goes_on(lab, campaigning, virtual, caplog):
    run = campaigning.tasks._run
    campaigning.tasks._run = lambda name, work: dataclasses.replace(run(name, work), remark="judged on the CPU")
    ask(lab, "c1", "modelled", models=["seeing"], objective=HALF)
    campaigning.run(virtual)
    assert "campaign c1, task profile:seeing:topk: judged on the CPU" in caplog.text
    assert phases(lab) == {("modelled", "seeing"): "done"}


@pytest.mark.parametrize("fault", ["crash", "refusal"])
def test_a_hopeless_profile_fails_its_model_and_no_other(lab, campaigning, virtual, fault):
    if fault == "crash":
        campaigning.tasks._run = lambda name, work, run=campaigning.tasks._run: (
            News(name, ended=True, crashed=True, failure=Failure("the process died", Blame.BUG))
            if name.startswith("profile")
            else run(name, work)
        )
    else:
        campaigning.tasks.failure = Failure("the process died", Blame.CONFIGURATION)
    ask(lab, "c1", "modelled", models=["seeing", "tiny"], objective=HALF)
    campaigning.run(virtual)
    assert phases(lab) == {("modelled", "seeing"): "failed", ("modelled", "tiny"): "done"}
    assert status(lab).state is CampaignState.DONE
    assert "the process died" in status(lab).steps[0].note
    tried = [name for name, _ in campaigning.tasks.started if name == "profile:seeing:topk"]
    assert len(tried) == (TRIES if fault == "crash" else 1)


def test_one_board_s_failure_stops_no_other(lab, campaigning, virtual):
    broken = lab.board("broken", BoardKind.VIRTUAL, machine="machine-2")
    ask(lab, "c1", "broken", "modelled", objective=HALF)
    driver = campaigning.driver()
    driver.advance()
    campaigning.play(broken, fail=Failure("no torch", Blame.CONFIGURATION))
    campaigning.run(virtual)
    assert phases(lab) == {("broken", "tiny"): "failed", ("modelled", "tiny"): "done"}
    assert status(lab).state is CampaignState.DONE
    assert status(lab).steps[0].note == "no torch"


def test_a_campaign_in_which_everything_failed_has_failed(lab, campaigning, virtual):
    ask(lab, "c1", "modelled")
    campaigning.driver().advance()
    campaigning.play(virtual, fail=Failure("no torch", Blame.CONFIGURATION))
    campaigning.run()
    found = status(lab)
    assert found.state is CampaignState.FAILED
    assert found.failure == Failure("no torch", Blame.CONFIGURATION)


def test_a_cancelled_campaign_orders_nothing_more(lab, campaigning, virtual):
    ask(lab, "c1", "modelled", objective=HALF)
    driver = campaigning.driver()
    driver.advance()
    campaigning.play(virtual)
    lab.store.end_campaign("c1", CampaignState.CANCELLED)
    assert not driver.advance()
    assert campaigning.tasks.stopped
    assert phases(lab) == {("modelled", "tiny"): "cancelled"}
    assert len(lab.store.list_jobs("c1")) == 1


def test_tasks_wait_while_their_own_machine_is_measured(lab, campaigning, virtual):
    here = lab.board("here", machine="host-machine")
    ask(lab, "c1", "modelled", models=["seeing"], objective=HALF)
    lab.campaign("c9", "here")
    job = lab.sweep("c9", here)
    driver = campaigning.driver()
    lab.claim(here)
    for _ in range(5):
        driver.advance()
        campaigning.play(virtual)
    assert campaigning.tasks.started == []
    (step,) = status(lab).steps
    assert step.phase == "profile"
    assert "waits while this machine is measured" in step.note
    lab.add(here, job, 1, lab.results_of(job))
    lab.store.take_back_jobs(here)
    lab.store.end_campaign("c9", CampaignState.CANCELLED)
    campaigning.run(virtual)
    assert phases(lab) == {("modelled", "seeing"): "done"}
    assert lab.sql("SELECT holder FROM machine_uses WHERE holder LIKE 'task:%'") == []


def test_a_board_that_is_away_is_waited_for_and_said_to_be(lab, campaigning):
    lab.board("nano", seen=False)
    ask(lab, "c1", "nano")
    campaigning.driver().advance()
    assert status(lab).steps[0].note == "waits for the board: never seen"


def test_missing_images_fail_the_model_in_one_sentence(lab, campaigning, virtual):
    campaigning.tasks.failure = Failure("there is no artifact 0123", Blame.AUTHOR)
    ask(lab, "c1", "modelled", models=["seeing"], objective=HALF)
    campaigning.run(virtual)
    assert phases(lab) == {("modelled", "seeing"): "failed"}
    assert "there is no artifact" in status(lab).steps[0].note
    assert lab.sql("SELECT count(*) FROM machine_uses WHERE holder LIKE 'task:%'") == [(0,)]


@pytest.mark.parametrize("kind", [JobKind.SWEEP, JobKind.VERIFY])
def test_a_cancelled_job_ends_its_step_and_no_other(lab, campaigning, virtual, kind):
    stopped = lab.board("stopped", BoardKind.VIRTUAL, machine="machine-2")
    ask(lab, "c1", "stopped", "modelled", objective=HALF)
    driver = campaigning.driver()
    reason = Failure("the job was cancelled by operator 'lab'", Blame.AUTHOR)
    for _ in range(20):
        driver.advance()
        mine = [job for job in lab.store.list_jobs("c1") if job.board_id == stopped and job.kind is kind]
        if mine:
            break
        campaigning.play(stopped)
    lab.store.cancel_job(mine[0].id, reason)
    campaigning.run(virtual)
    assert phases(lab) == {("stopped", "tiny"): "cancelled", ("modelled", "tiny"): "done"}
    found = status(lab)
    assert found.state is CampaignState.DONE
    assert (found.steps[0].note, found.steps[0].failure) == (reason.sentence, reason)


def test_a_campaign_whose_every_job_was_cancelled_has_failed_and_says_so(lab, campaigning, virtual):
    ask(lab, "c1", "modelled")
    campaigning.driver().advance()
    reason = Failure("the job was cancelled by operator 'lab'", Blame.AUTHOR)
    lab.store.cancel_job(lab.store.list_jobs("c1")[0].id, reason)
    campaigning.run()
    assert (status(lab).state, status(lab).failure) == (CampaignState.FAILED, reason)
    assert phases(lab) == {("modelled", "tiny"): "cancelled"}


def report(lab, campaign_id="c1"):
    return campaigns.report_of(lab.store, lab.store.get_campaign(campaign_id)).rows


def test_methods_compete_and_one_plan_is_stored(lab, campaigning, virtual):
    ask(lab, "c1", "modelled", models=["seeing"], methods=["auto", "topk", "tome"], objective=HALF)
    campaigning.run(virtual)
    assert status(lab).state is CampaignState.DONE
    (row,) = report(lab)
    assert row.method == "auto"
    assert row.reduces_by in ("topk", "tome")
    assert lab.store.get_schedule(row.schedule_digest).method == row.reduces_by
    # Both were timed and profiled.
    (sweep,) = [lab.store.get_job(job.id) for job in lab.store.list_jobs("c1") if job.kind is JobKind.SWEEP]
    assert {"topk", "tome"} <= {unit.label for unit in sweep.units}
    assert {name for name, _ in campaigning.tasks.started} >= {"profile:seeing:topk", "profile:seeing:tome"}


def test_baselines_are_planned_beside_the_search_and_verified(lab, campaigning, virtual):
    planners = ["optimal", "tome-constant", "pomt-alpha", "random-block"]
    methods = ["tome", "pomt", "random"]
    ask(lab, "c1", "modelled", models=["seeing"], methods=methods, planners=planners, objective=HALF)
    campaigning.run(virtual)
    rows = report(lab)
    assert [(row.planner, row.method) for row in rows] == [
        ("optimal", "tome"), ("optimal", "pomt"), ("optimal", "random"),
        ("tome-constant", "tome"), ("pomt-alpha", "pomt"), ("random-block", "random"),
    ]  # fmt: skip
    assert all(row.measured_ns is not None for row in rows if row.schedule_digest is not None)
    assert any(row.schedule_digest is not None for row in rows if row.planner != "optimal")


@pytest.mark.parametrize("verify", [1, 3])
def test_points_of_a_front_are_measured_and_shown(lab, campaigning, virtual, verify):
    ask(lab, "c1", "modelled", objective=Objective(front=True), verify=verify)
    campaigning.run(virtual)
    rows = report(lab)
    assert len(rows) == verify
    assert all(row.measured_ns < row.dense_ns for row in rows)
    assert [row.measured_ns for row in rows] == sorted((row.measured_ns for row in rows), reverse=True)
    for row in rows:
        assert lab.store.get_schedule(row.schedule_digest).keep == row.keep


def test_later_plans_learn_from_verifications_of_the_board_as_it_is(lab, campaigning, virtual):
    ask(lab, "c1", "modelled", objective=Objective(front=True), verify=4)
    campaigning.run(virtual)
    board, model = lab.store.get_board(virtual), lab.store.get_model("tiny")
    request = lab.store.get_campaign("c1").request
    seen = campaigns.stored_verifications(lab.store, request, board, model)
    assert len(seen) == 4
    assert all(0 < one.share < 1 for one in seen)
    # Of another workload, or of a board that is another by now, nothing.
    other = dataclasses.replace(request, batch=2)
    assert campaigns.stored_verifications(lab.store, other, board, model) == []
    changed = dataclasses.replace(board, fingerprint="f" * 64)
    assert campaigns.stored_verifications(lab.store, request, changed, model) == []
    ask(lab, "c2", "modelled", objective=HALF)
    given = []
    plan = campaigning.tasks.plan
    campaigning.tasks.plan = lambda name, inputs: (given.extend(inputs), plan(name, inputs))
    campaigning.run(virtual, campaign_id="c2")
    assert [one.verified for one in given] == [seen]
    assert given[0].verify == 3
