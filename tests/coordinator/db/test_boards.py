"""Enrolments, tokens, and what is known of boards."""

import pytest
from sqlalchemy import update

from tailfleet_coordinator.db.engine import Now
from tailfleet_coordinator.db.rows import Caller
from tailfleet_coordinator.db.tables import BoardTable, EnrolmentTable
from tailfleet_coordinator.refusals import NameTaken, TokenRefused, UnknownName
from tailfleet_coordinator.web.access import hashed
from tailfleet_schema.board import BoardKind
from tailfleet_schema.errors import InputError


def test_an_enrolment_token_is_good_once(lab):
    lab.store.create_enrolment("nano", None, hashed("promise"), 60)
    assert lab.store.enroll(hashed("promise"), lab.facts_of(), hashed("token")) == "nano"
    assert lab.store.find_caller(hashed("token")) == Caller("board", "nano", 1)
    with pytest.raises(TokenRefused, match="used already"):
        lab.store.enroll(hashed("promise"), lab.facts_of(), hashed("another"))
    assert lab.store.find_caller(hashed("another")) is None


def test_an_enrolment_token_expires(lab):
    lab.store.create_enrolment("nano", None, hashed("promise"), 60)
    lab.write(update(EnrolmentTable).values(created_at=Now(-61), expires_at=Now(-1)))
    with pytest.raises(TokenRefused, match="expired"):
        lab.store.enroll(hashed("promise"), lab.facts_of(), hashed("token"))
    with pytest.raises(TokenRefused, match="not known"):
        lab.store.enroll(hashed("guess"), lab.facts_of(), hashed("token"))
    assert lab.store.list_boards(60) == []


def test_a_new_line_makes_the_old_one_void(lab):
    lab.store.create_enrolment("nano", None, hashed("first"), 60)
    lab.store.create_enrolment("nano", None, hashed("second"), 60)
    with pytest.raises(TokenRefused):
        lab.store.enroll(hashed("first"), lab.facts_of(), hashed("token"))
    assert lab.store.enroll(hashed("second"), lab.facts_of(), hashed("token")) == "nano"


def test_the_name_of_a_board_at_work_is_taken(lab):
    lab.board("nano")
    with pytest.raises(NameTaken, match="'nano'"):
        lab.store.create_enrolment("nano", None, hashed("promise"), 60)


def test_a_board_that_lost_the_reply_may_enroll_again(lab):
    lab.board("nano", seen=False)
    lab.store.create_enrolment("nano", None, hashed("again"), 60)
    assert lab.store.enroll(hashed("again"), lab.facts_of(), hashed("new token")) == "nano"
    assert lab.store.find_caller(hashed("nano-token")) is None
    assert lab.store.find_caller(hashed("new token")).name == "nano"
    assert len(lab.store.list_boards(60)) == 1


def test_another_kind_of_board_than_was_promised_is_refused_and_the_token_stays_good(lab):
    lab.store.create_enrolment("modelled", "jetson-tx2", hashed("promise"), 60)
    for facts in (lab.facts_of(), lab.facts_of(BoardKind.VIRTUAL, profile="jetson-nano")):
        with pytest.raises(InputError, match="virtual jetson-tx2"):
            lab.store.enroll(hashed("promise"), facts, hashed("token"))
    assert lab.store.enroll(hashed("promise"), lab.facts_of(BoardKind.VIRTUAL), hashed("token")) == "modelled"


def test_a_board_cannot_become_another_kind(lab):
    board = lab.board("nano")
    with pytest.raises(InputError):
        lab.store.see_board(board, lab.facts_of(BoardKind.VIRTUAL), None)
    assert lab.store.get_board(board).kind is BoardKind.PHYSICAL


def test_what_a_board_tells_is_kept_and_ages_its_fingerprint(lab):
    board = lab.board("nano")
    before = lab.store.get_board(board)
    lab.store.see_board(board, lab.facts_of(torch="2.9"), None)
    after = lab.store.get_board(board)
    assert after.facts.software.torch == "2.9"
    assert after.fingerprint != before.fingerprint
    lab.store.see_board(board, lab.facts_of(torch="2.9"), "MAXN")
    assert lab.store.get_board(board).fingerprint not in (before.fingerprint, after.fingerprint)


def test_online_is_judged_by_the_database_clock(lab):
    lab.board("nano")
    lab.board("quiet", seen=False)
    assert [board.online for board in lab.store.list_boards(60)] == [True, False]
    lab.write(update(BoardTable).values(last_seen_at=Now(-61)))
    assert [board.online for board in lab.store.list_boards(60)] == [False, False]


def test_unknown_boards_and_models_are_named(lab):
    with pytest.raises(UnknownName, match="'ghost'"):
        lab.store.find_boards(["ghost"])
    with pytest.raises(UnknownName, match="'ghost'"):
        lab.store.get_model("ghost")
    with pytest.raises(UnknownName, match="'ghost'"):
        lab.store.get_dataset("ghost")


def test_a_replaced_token_opens_nothing(lab):
    lab.store.replace_token("local", "operator", hashed("first"))
    lab.store.replace_token("local", "operator", hashed("second"))
    with pytest.raises(TokenRefused, match="'local' was revoked"):
        lab.store.find_caller(hashed("first"))
    assert lab.store.find_caller(hashed("second")) == Caller("operator", "local")


def test_a_revoked_board_says_nothing_more_until_it_enrols_again(lab):
    board = lab.board("nano")
    lab.store.revoke_board("nano")
    revoked_at = lab.store.get_board(board).revoked_at
    assert revoked_at is not None
    assert not lab.store.get_board(board).online
    with pytest.raises(TokenRefused, match="'nano' was revoked") as refusal:
        lab.store.find_caller(hashed("nano-token"))
    assert "board enroll nano" in refusal.value.mend
    with pytest.raises(InputError, match="'nano' is revoked"):
        lab.store.find_boards(["nano"])
    lab.store.revoke_board("nano")
    assert lab.store.get_board(board).revoked_at == revoked_at
    with pytest.raises(UnknownName, match="'ghost'"):
        lab.store.revoke_board("ghost")

    lab.store.create_enrolment("nano", None, hashed("again"), 60)
    assert lab.store.enroll(hashed("again"), lab.facts_of(), hashed("new token")) == "nano"
    assert lab.store.find_caller(hashed("nano-token")) is None
    assert lab.store.find_caller(hashed("new token")) == Caller("board", "nano", board)
    assert lab.store.find_boards(["nano"]) == [board]


def test_revoking_a_board_voids_the_promise_of_its_name(lab):
    lab.board("nano", seen=False)
    lab.store.create_enrolment("nano", None, hashed("again"), 60)
    lab.store.revoke_board("nano")
    with pytest.raises(TokenRefused, match="not known"):
        lab.store.enroll(hashed("again"), lab.facts_of(), hashed("token"))


def test_a_name_with_curves_stays_with_its_kind_of_board(lab):
    """Latencies of a modelled board must not come under the name of a measured one."""
    board = lab.board("nano")
    lab.board("new", seen=False)
    lab.campaign("c1", "nano")
    lab.sweep("c1", board)
    lab.store.revoke_board("nano")
    with pytest.raises(InputError, match="was a physical board"):
        lab.store.create_enrolment("nano", "jetson-tx2", hashed("promise"), 60)
    lab.store.create_enrolment("new", "jetson-tx2", hashed("promise"), 60)
    assert lab.store.enroll(hashed("promise"), lab.facts_of(BoardKind.VIRTUAL), hashed("token")) == "new"


def test_a_token_has_one_name_and_may_be_revoked(lab):
    lab.store.create_token("ci", "viewer", hashed("first"))
    with pytest.raises(NameTaken, match="'ci'"):
        lab.store.create_token("ci", "operator", hashed("second"))
    assert lab.store.find_caller(hashed("second")) is None
    assert lab.store.find_caller(hashed("first")) == Caller("viewer", "ci")
    lab.store.revoke_token("ci")
    with pytest.raises(TokenRefused, match="'ci' was revoked"):
        lab.store.find_caller(hashed("first"))
    lab.store.revoke_token("ci")
    lab.store.create_token("ci", "operator", hashed("third"))
    told = [(token.name, token.role, token.revoked_at is None) for token in lab.store.list_tokens()]
    assert told == [("ci", "viewer", False), ("ci", "operator", True)]
    with pytest.raises(UnknownName, match="'ghost'"):
        lab.store.revoke_token("ghost")
