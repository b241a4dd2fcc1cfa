"""One writer: who may become it, who stops being it, and that nothing of a deposed one is stored."""

import threading

import pytest
from sqlalchemy import update

from tailfleet_coordinator.db.engine import Now
from tailfleet_coordinator.db.store import Store
from tailfleet_coordinator.db.tables import BoardTable, LeadershipTable
from tailfleet_coordinator.refusals import AnotherWriter, Deposed, status_of


@pytest.fixture
def coordinator(lab):
    """``coordinator()``: another process's store on the same database."""
    stores = []

    def another(epoch=None):
        stores.append(Store(lab.url, epoch))
        return stores[-1]

    yield another
    for store in stores:
        store.close()


def lapse(lab):
    lab.write(update(LeadershipTable).values(expires_at=Now(-1)))


def test_the_first_coordinator_begins_the_first_epoch(lab, coordinator):
    first = coordinator()
    assert first.take_leadership("host-1, process 7", "host-1:/state", 60) == 1
    assert first.epoch == 1
    assert lab.sql("SELECT id, epoch, holder, holder_key FROM leadership") == [
        (1, 1, "host-1, process 7", "host-1:/state")
    ]


def test_a_second_one_is_refused_by_name_while_the_first_lives(lab, coordinator):
    first, second = coordinator(), coordinator()
    first.take_leadership("host-1, process 7", "host-1", 60)
    with pytest.raises(AnotherWriter, match="host-1, process 7") as refusal:
        second.take_leadership("host-2, process 9", "host-2", 60)
    assert "UTC" in refusal.value.mend
    assert status_of(refusal.value) == 503
    assert second.epoch is None
    first.replace_token("op", "operator", "a" * 64)


def test_of_several_that_come_first_at_once_one_is_let_in(lab, coordinator, together):
    stores = [coordinator() for _ in range(8)]
    outcomes = together(
        *(lambda s=s, n=n: s.take_leadership(f"host-{n}", f"host-{n}", 60) for n, s in enumerate(stores))
    )
    assert [outcome for outcome in outcomes if not isinstance(outcome, AnotherWriter)] == [1]
    assert lab.sql("SELECT epoch FROM leadership") == [(1,)]


def test_of_several_that_follow_a_dead_one_at_once_one_is_let_in(lab, coordinator, together):
    coordinator().take_leadership("dead", "dead", 60)
    lapse(lab)
    stores = [coordinator() for _ in range(8)]
    outcomes = together(
        *(lambda s=s, n=n: s.take_leadership(f"host-{n}", f"host-{n}", 60) for n, s in enumerate(stores))
    )
    assert [outcome for outcome in outcomes if not isinstance(outcome, AnotherWriter)] == [2]


def test_who_lapsed_is_followed_and_then_writes_nothing_more(lab, coordinator):
    first, second = coordinator(), coordinator()
    board = lab.board("nano")
    first.take_leadership("host-1", "host-1", 60)
    lapse(lab)
    # Nobody has followed yet: a hold that ran out harms nobody.
    first.see_board(board, lab.facts_of(torch="2.1"), None)
    assert second.take_leadership("host-2", "host-2", 60) == 2
    for act in (
        lambda: first.see_board(board, lab.facts_of(torch="2.9"), None),
        lambda: first.renew_leadership(60),
        lambda: first.end_leadership(),
    ):
        with pytest.raises(Deposed, match="host-2 has taken over"):
            act()
    assert lab.store.get_board(board).facts.software.torch == "2.1"
    second.see_board(board, lab.facts_of(torch="2.2"), None)


def test_the_place_of_a_dead_process_is_taken_at_once(lab, coordinator):
    dead, again = coordinator(), coordinator()
    dead.take_leadership("host-1, process 7", "host-1:/state", 60)
    assert again.take_leadership("host-1, process 8", "host-1:/state", 60) == 2
    with pytest.raises(Deposed, match="process 8"):
        dead.replace_token("op", "operator", "a" * 64)


def test_renewing_holds_on_and_ending_lets_go(lab, coordinator):
    first, second = coordinator(), coordinator()
    first.take_leadership("host-1", "host-1", 60)
    lapse(lab)
    first.renew_leadership(60)
    with pytest.raises(AnotherWriter):
        second.take_leadership("host-2", "host-2", 60)
    first.end_leadership()
    assert second.take_leadership("host-2", "host-2", 60) == 2


def test_who_never_led_can_neither_renew_nor_end(lab, coordinator):
    coordinator().take_leadership("host-1", "host-1", 60)
    for act in (lambda store: store.renew_leadership(60), lambda store: store.end_leadership()):
        with pytest.raises(Deposed):
            act(coordinator())


def test_a_process_is_given_its_coordinator_s_epoch(lab, coordinator):
    first = coordinator()
    helper = coordinator(first.take_leadership("host-1", "host-1", 60))
    helper.replace_token("op", "operator", "a" * 64)
    coordinator().take_leadership("host-1 again", "host-1", 60)
    with pytest.raises(Deposed):
        helper.replace_token("op", "operator", "b" * 64)
    with pytest.raises(Deposed):
        coordinator(99).replace_token("op", "operator", "b" * 64)
    assert lab.sql("SELECT token_hash FROM tokens") == [("a" * 64,)]


def test_a_take_over_waits_for_a_writer_in_mid_transaction(lab, coordinator):
    """Otherwise the deposed one's transaction could end after its successor has looked."""
    board = lab.board("nano")
    first, second = coordinator(), coordinator()
    first.take_leadership("host-1", "host-1", 60)
    lapse(lab)
    order = []

    def take_over():
        second.take_leadership("host-2", "host-2", 60)
        order.append("taken over")

    thread = threading.Thread(target=take_over)
    with first.writing() as connection:
        thread.start()
        connection.execute(update(BoardTable).where(BoardTable.id == board).values(name="renamed"))
        thread.join(0.2)
        order.append("written")
    thread.join()
    assert order == ["written", "taken over"]
    assert second.get_board(board).name == "renamed"
    with pytest.raises(Deposed), first.writing():
        pytest.fail("a deposed coordinator was let in")


def test_writers_that_renew_write_and_take_over_at_once_do_not_wait_in_a_circle(lab, coordinator, together):
    first = coordinator()
    first.take_leadership("host-1", "host-1", 60)

    def write(number):
        for turn in range(10):
            first.replace_token(f"name-{number}", "viewer", f"{number:032d}{turn:032d}")

    def take():
        store = coordinator()
        for _ in range(10):
            with pytest.raises(AnotherWriter):
                store.take_leadership("host-2", "host-2", 60)

    def renew():
        for _ in range(20):
            first.renew_leadership(60)

    assert together(renew, renew, take, *(lambda n=n: write(n) for n in range(3))) == [None] * 6
