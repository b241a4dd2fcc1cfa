"""Several at once: what each may get, and that nobody is told of the race."""

import threading

import pytest
from sqlalchemy import select

from tailfleet_coordinator.db.store import Store
from tailfleet_coordinator.db.tables import JobTable
from tailfleet_coordinator.refusals import AnotherWriter, LeaseGone, TokenRefused
from tailfleet_coordinator.web.access import hashed
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import CampaignState
from tailfleet_schema.curve import Judgement, Part, Unit, UnitResult
from tailfleet_schema.job import JobState
from tailfleet_schema.messages import Outcome
from tailfleet_schema.workload import DatasetSpec

BOARDS, CAMPAIGNS, CLAIMERS = 25, 20, 50


def test_fifty_claimers_get_each_of_five_hundred_jobs_once(lab):
    """Two claimers a board, all boards on one machine; each claimer as a process of its own would be."""
    names = [f"v{number}" for number in range(BOARDS)]
    boards = [lab.board(name, BoardKind.VIRTUAL) for name in names]
    for number in range(CAMPAIGNS):
        lab.campaign(f"c{number}", *names)
        for board_id in boards:
            lab.sweep(f"c{number}", board_id)
    claimed, failed, ready = [], [], threading.Barrier(CLAIMERS)

    def claimer(board_id):
        store = Store(lab.url)
        try:
            ready.wait()
            while (claim := store.claim_job(board_id, 600.0, 30.0)) is not None:
                claimed.append((claim.job.id, claim.attempt))
        except Exception as error:
            failed.append(error)
        finally:
            store.close()

    threads = [threading.Thread(target=claimer, args=(board_id,)) for board_id in boards * (CLAIMERS // BOARDS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(claimed) == len(set(claimed)) == BOARDS * CAMPAIGNS == 500
    assert {attempt for _, attempt in claimed} == {1}
    assert lab.sql("SELECT state, attempt, count(*) FROM jobs GROUP BY state, attempt") == [("leased", 1, 500)]


def test_a_claimer_passes_by_a_job_that_somebody_else_holds(postgresql_lab):
    lab = postgresql_lab
    board = lab.board("nano", BoardKind.VIRTUAL)
    for number in range(2):
        lab.campaign(f"c{number}", "nano")
        lab.sweep(f"c{number}", board)
    with lab.store.writing() as connection:
        held = connection.execute(
            select(JobTable.id).order_by(JobTable.created_at).limit(1).with_for_update()
        ).scalar_one()
        assert lab.claim(board).job.id != held
    assert lab.claim(board).job.id == held


def test_of_those_who_want_a_machine_at_once_one_measures_or_all_share(lab, together):
    physical = [lab.board(f"here-{number}") for number in range(3)]
    for turn in range(8):
        for board_id in physical:
            lab.campaign(f"c{turn}-{board_id}", "here-0")
            lab.sweep(f"c{turn}-{board_id}", board_id)
        acts = [lambda board_id=board_id: lab.claim(board_id) for board_id in physical]
        uses = [lambda n=n: lab.store.use_machine("machine-1", f"task {n}", 60, -1) for n in range(2)]
        outcomes = together(*acts, *uses)
        assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        measured, shared = sum(o is not None for o in outcomes[:3]), sum(outcomes[3:])
        assert (measured, shared) in [(1, 0), (0, 2)]
        for board_id in physical:
            lab.store.take_back_jobs(board_id)
        lab.sql("DELETE FROM machine_uses")


def test_of_two_who_enroll_with_one_token_one_is_the_board(lab, together):
    lab.store.create_enrolment("nano", None, hashed("promise"), 60)
    outcomes = together(
        *(lambda n=n: lab.store.enroll(hashed("promise"), lab.facts_of(), hashed(f"token {n}")) for n in range(6))
    )
    assert sorted(map(str, outcomes)) == ["nano"] + ["this enrolment token was used already"] * 5
    assert all(outcome == "nano" or isinstance(outcome, TokenRefused) for outcome in outcomes)
    (winner,) = (number for number, outcome in enumerate(outcomes) if outcome == "nano")
    assert lab.store.find_caller(hashed(f"token {winner}")).name == "nano"
    assert lab.sql("SELECT count(*) FROM boards") == [(1,)]


def test_of_promises_of_one_name_made_at_once_one_is_good(lab, together):
    outcomes = together(
        *(lambda n=n: lab.store.create_enrolment("nano", None, hashed(f"promise {n}"), 60) for n in range(6))
    )
    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert lab.sql("SELECT count(*) FROM enrolments") == [(1,)]


def test_a_token_that_is_replaced_twice_at_once_has_one_successor(lab, together):
    for turn in range(3):
        outcomes = together(
            *(lambda token=f"{turn} {n}": lab.store.replace_token("op", "operator", hashed(token)) for n in range(6))
        )
        assert outcomes == [None] * 6
        assert lab.sql("SELECT count(*) FROM tokens WHERE revoked_at IS NULL") == [(1,)]


def test_a_job_is_ordered_once(lab, together):
    board = lab.board("nano")
    lab.campaign("c1", "nano")
    lab.campaign("c2", "nano")
    job = lab.sweep("c2", board)
    orders = [type(job)(f"job-{n}", job.kind, job.workload, job.units, 2, 1, 0) for n in range(6)]
    outcomes = together(*(lambda order=order: lab.store.create_job("c1", board, "tiny", order) for order in orders))
    assert sorted(outcomes) == [False] * 5 + [True]
    assert len(lab.store.list_jobs("c1")) == 1


def test_a_key_that_is_sent_twice_at_once_counts_once(lab, together):
    board = lab.board("nano")
    lab.campaign("c1", "nano")
    job = lab.sweep("c1", board, counts=range(1, 18), rounds=10)
    lab.claim(board)
    results = lab.results_of(job)
    outcomes = together(
        *(
            lambda sent=sent: lab.add(board, job, 1, sent)
            for sent in (results, results[::-1], results[50:], results[:99])
        )
    )
    assert sum(stored for stored, _ in outcomes) == len(results) == 170
    assert {result.key for result in lab.store.list_results(job.id)} == {result.key for result in results}


def test_a_profile_that_is_stored_twice_at_once_counts_once(lab, together):
    judged = [
        UnitResult(Unit(Part.LOSS, 17, kept, "topk", block), 0, [], Judgement(100, 90, 95, 0.1, "host"))
        for block in range(4)
        for kept in range(1, 17)
    ]
    outcomes = together(
        *(lambda sent=sent: lab.store.add_profile("a" * 64, "b" * 64, sent) for sent in (judged, judged[::-1]) * 3)
    )
    assert sum(outcomes) == len(lab.store.list_profile("a" * 64, "b" * 64)) == 64


def test_a_sweep_that_is_filed_twice_at_once_is_one_curve(lab, together):
    board = lab.board("nano")
    lab.campaign("c1", "nano")
    job = lab.sweep("c1", board)
    lab.claim(board)
    lab.add(board, job, 1, lab.results_of(job))
    lab.store.finish_job(board, job.id, 1, Outcome.DONE, None, "")
    outcomes = together(*(lambda: lab.store.create_curve(job.id, True, "") for _ in range(6)))
    assert len(set(outcomes)) == len(lab.store.list_curves()) == 1


def test_a_model_that_is_registered_twice_at_once_is_one(lab, together):
    dataset = DatasetSpec("images", "a" * 64, 10, 10, 10, "made up")
    outcomes = together(*(lambda: lab.store.put_dataset(dataset) for _ in range(6)))
    assert outcomes == [None] * 6
    assert lab.store.list_datasets() == [dataset]


def test_a_campaign_that_ends_has_the_last_word_on_its_steps(lab, together):
    lab.board("nano")
    for turn in range(5):
        name = f"c{turn}"
        lab.campaign(name, "nano")
        (step,) = lab.store.list_steps(name)
        acts = [lambda step=step: lab.store.update_step(step.id, "sweep", "at work") for _ in range(4)]
        outcomes = together(lambda name=name: lab.store.end_campaign(name, CampaignState.CANCELLED), *acts)
        assert outcomes == [True, None, None, None, None]
        assert lab.store.list_steps(name)[0].phase == "cancelled"


@pytest.fixture
def beside():
    """``beside(act)``: a thread that has begun with ``act`` and, where that waits for somebody, waits. Call the result
    for what came of it."""

    def start(act):
        outcome = []

        def run():
            try:
                outcome.append(act())
            except Exception as error:
                outcome.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join(0.3)

        def ended():
            thread.join()
            return outcome[0]

        return ended

    return start


# The orders that lose, played out: what one has begun, another one finds. PostgreSQL alone lets two write at once.


def test_a_step_is_not_moved_while_its_campaign_ends(postgresql_lab, beside):
    lab = postgresql_lab
    lab.board("nano")
    lab.campaign("c1", "nano")
    (step,) = lab.store.list_steps("c1")
    with lab.store.writing() as connection:
        connection.exec_driver_sql("UPDATE campaigns SET state = 'cancelled', finished_at = now()")
        connection.exec_driver_sql("UPDATE steps SET phase = 'cancelled'")
        late = beside(lambda: lab.store.update_step(step.id, "sweep", "too late"))
    assert late() is None
    assert lab.store.list_steps("c1")[0].phase == "cancelled"


def test_a_sweep_is_filed_once_though_both_looked_before_either_wrote(postgresql_lab, beside):
    lab = postgresql_lab
    board = lab.board("nano")
    lab.campaign("c1", "nano")
    job = lab.sweep("c1", board)
    lab.claim(board)
    lab.add(board, job, 1, lab.results_of(job))
    lab.store.finish_job(board, job.id, 1, Outcome.DONE, None, "")
    with lab.store.writing() as connection:
        connection.execute(select(JobTable.id).where(JobTable.id == job.id).with_for_update())
        first = connection.exec_driver_sql(
            "INSERT INTO curves (job_id, board_id, model, model_digest, backend, dtype, batch, fingerprint, stable,"
            " unstable_reason, measured_at) SELECT jobs.id, board_id, model, digest, 'eager', 'fp32', 1, fingerprint,"
            " true, '', now() FROM jobs JOIN models ON models.name = jobs.model RETURNING id"
        ).scalar_one()
        second = beside(lambda: lab.store.create_curve(job.id, True, ""))
    assert second() == first


def test_two_profiles_are_stored_in_one_order_whatever_order_they_came_in(postgresql_lab, beside):
    lab = postgresql_lab
    judged = [
        UnitResult(Unit(Part.LOSS, 17, kept, "topk", 1), 0, [], Judgement(100, 90, 95, 0.1, "host")) for kept in (5, 9)
    ]

    def put(connection, kept):
        connection.exec_driver_sql(
            "INSERT INTO profiles (model_digest, dataset_sha256, part, label, block, tokens, kept, judgement_json,"
            " stored_at) VALUES (repeat('a', 64), repeat('b', 64), 'loss', 'topk', 1, 17, %s, '{}', now())",
            (kept,),
        )

    with lab.store.writing() as connection:
        put(connection, 5)
        other = beside(lambda: lab.store.add_profile("a" * 64, "b" * 64, judged[::-1]))
        put(connection, 9)
    assert other() == 0


def test_a_campaign_ends_beside_a_board_whose_jobs_are_taken_back(postgresql_lab, beside):
    lab = postgresql_lab
    boards = [lab.board("first"), lab.board("second")]
    lab.campaign("c1", "first", "second")
    jobs = [lab.sweep("c1", board).id for board in boards]
    lab.claim(boards[0])
    with lab.store.writing() as connection:
        lock = select(JobTable.id).with_for_update()
        connection.execute(lock.where(JobTable.id == jobs[0]))
        end = beside(lambda: lab.store.end_campaign("c1", CampaignState.CANCELLED))
        connection.execute(lock.where(JobTable.id == jobs[1]))
    assert jobs == sorted(jobs)
    assert end() is True


def test_who_follows_a_dead_coordinator_sees_that_another_one_just_did(postgresql_lab, beside):
    lab = postgresql_lab
    dead, second = Store(lab.url), Store(lab.url)
    dead.take_leadership("dead", "dead", 0)
    with lab.store.writing() as connection:
        connection.exec_driver_sql(
            "UPDATE leadership SET epoch = 2, holder = 'the faster', holder_key = 'x', expires_at = now() + '1 hour'"
        )
        late = beside(lambda: second.take_leadership("the slower", "y", 60))
    refusal = late()
    assert isinstance(refusal, AnotherWriter)
    assert "the faster" in refusal.sentence
    dead.close()
    second.close()


def test_a_farm_at_work_that_is_cancelled_and_taken_back_meets_no_circle(lab, together):
    """Every kind of writer on one machine at once; each either does its part or is refused by name."""
    names = [f"v{number}" for number in range(4)]
    boards = [lab.board(name, BoardKind.VIRTUAL) for name in names]
    for number in range(5):
        lab.campaign(f"c{number}", *names)
        for board_id in boards:
            lab.sweep(f"c{number}", board_id)

    def work(board_id):
        store = Store(lab.url)
        try:
            for _ in range(12):
                claim = store.claim_job(board_id, 60.0, 30.0)
                if claim is None:
                    continue
                try:
                    store.renew_lease(board_id, claim.job.id, claim.attempt, 60.0)
                    store.add_results(board_id, claim.job.id, claim.attempt, lab.results_of(claim.job), 60.0)
                    store.finish_job(board_id, claim.job.id, claim.attempt, Outcome.DONE, None, "log")
                except LeaseGone:
                    pass
        finally:
            store.close()

    def take_back(board_id):
        for _ in range(12):
            lab.store.take_back_jobs(board_id)

    def cancel():
        for number in (4, 3):
            lab.store.end_campaign(f"c{number}", CampaignState.CANCELLED)

    def use():
        for turn in range(12):
            if lab.store.use_machine("machine-1", f"task {turn}", 60, 30):
                lab.store.leave_machine(f"task {turn}")

    acts = [lambda b=b: work(b) for b in boards] + [lambda b=b: take_back(b) for b in boards[:2]] + [cancel, use]
    assert together(*acts) == [None] * len(acts)
    ended = {job.id: job for number in range(5) for job in lab.store.list_records(f"c{number}")}
    assert all(job.done == job.total for job in ended.values() if job.state is JobState.DONE)
    holders = {holder for (holder,) in lab.sql("SELECT holder FROM machine_uses")}
    assert holders == {f"job:{job.id}" for job in ended.values() if job.state is JobState.LEASED}
