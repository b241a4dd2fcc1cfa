"""``tailfleet schedule`` as people use it, against the real application."""

import dataclasses
from pathlib import Path

import pytest

from tailfleet_schema import codec
from tailfleet_schema.errors import InputError, TailfleetError
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.shipment import Receipt

MINE = Schedule("topk", "tiny", 17, 1, [17, 9, 9, 9])
SHORT = MINE.digest[:12]


@pytest.fixture
def nano(live):
    live.lab.store.add_schedule(MINE)
    return live.board("nano")


def planned(live, nano):
    curve = live.lab.curve("c1", "nano")
    (step,) = live.lab.store.list_steps("c1")
    live.lab.store.update_step(step.id, "done", "", curve_id=curve)
    live.lab.store.add_plan("c1", nano, "tiny", "optimal", "topk", "{}", MINE)
    return curve


def test_nothing_to_list(cli):
    assert cli("schedule", "list") == "no schedule is planned yet; tailfleet campaign run plans"


def test_one_that_was_only_added_is_on_no_board(cli, nano):
    assert f"{SHORT} tiny topk 17×1 9×3" in cli("schedule", "list")
    assert cli("schedule", "show", SHORT, "--boards") == "it was shipped to no board"


def test_shipped_by_hand_then_delivered(live, cli, nano):
    live.board("orin", machine="machine-2")
    assert cli("schedule", "ship", SHORT, "nano", "orin") == (
        f"schedule {SHORT} of tiny is queued for nano schedule {SHORT} of tiny is queued for orin"
    )
    live.lab.store.note_receipts(nano, [Receipt(MINE.digest, False)])
    listed = cli("schedule", "list")
    assert listed.count(SHORT) == 2
    assert f"{SHORT} nano tiny topk 17×1 9×3 – delivered" in listed
    assert f"{SHORT} orin tiny topk 17×1 9×3 – queued" in listed
    assert "orin" not in cli("schedule", "list", "--board", "nano")
    shown = cli("schedule", "show", SHORT, "--boards")
    assert shown.startswith(f"schedule {SHORT} of tiny")
    assert live.lab.model.digest[:12] in shown
    assert codec.loads(Schedule, cli("schedule", "show", SHORT)) == MINE


def test_a_planned_one_is_listed_once_with_its_state(live, cli, nano):
    curve = planned(live, nano)
    assert f"{SHORT} nano tiny topk optimal chosen 17×1 9×3 c1" in cli("schedule", "list")
    live.lab.store.ship_verified(nano, MINE.digest, "tiny", "c1")
    live.lab.store.note_receipts(nano, [Receipt(MINE.digest, True)])
    listed = cli("schedule", "list")
    assert listed.count(SHORT) == 1
    assert "verified" in listed
    assert "mend" not in listed
    assert f" c1 {curve} " in cli("schedule", "show", SHORT, "--boards")


def test_a_stale_one_comes_with_the_command_that_renews_it(live, cli, nano):
    planned(live, nano)
    live.lab.store.ship_verified(nano, MINE.digest, "tiny", "c1")
    live.lab.store.note_receipts(nano, [Receipt(MINE.digest, True)])
    live.lab.store.see_board(nano, live.lab.facts_of(torch="2.1"), None)
    for told in (cli("schedule", "list"), cli("schedule", "show", SHORT, "--boards")):
        assert (
            f"schedule {SHORT} on nano is stale: the board's hardware, software or power mode is not what it was"
            " measured on mend: tailfleet campaign run --models tiny --boards nano --method topk" in told
        )


def test_a_refused_one_comes_with_the_reason(live, cli, nano):
    cli("schedule", "ship", SHORT, "nano")
    live.lab.store.note_receipts(nano, [Receipt(MINE.digest, False, "no room")])
    listed = cli("schedule", "list")
    assert (
        f"schedule {SHORT} on nano is refused: no room mend: tailfleet schedule ship {SHORT} nano, once that is no"
        " longer so" in listed
    )
    cli("schedule", "ship", SHORT, "nano")
    assert "no room" not in cli("schedule", "list")


@pytest.mark.parametrize(
    ("boards", "words"),
    [
        (["ghost"], "no board is called 'ghost'"),
        (["nano", "lost"], "board 'lost' is revoked"),
        (["nano", "nano"], r"boards\[1\]: 'nano' is named twice"),
    ],
)
def test_to_whom_nothing_is_shipped(live, cli, nano, boards, words):
    live.board("lost")
    live.lab.store.revoke_board("lost")
    with pytest.raises(TailfleetError, match=words):
        cli("schedule", "ship", SHORT, *boards)
    assert live.lab.store.list_shipments() == []


def test_what_no_longer_fits_its_model_is_not_shipped(live, cli, nano):
    live.lab.store.put_model(
        dataclasses.replace(live.lab.model, geometry=dataclasses.replace(live.lab.model.geometry, depth=5))
    )
    with pytest.raises(TailfleetError, match=rf"^schedule {SHORT} cannot be shipped: keep: has 4 blocks, model 'tiny'"):
        cli("schedule", "ship", SHORT, "nano")


def test_pull_writes_a_file(cli, nano, tmp_path, monkeypatch):
    out = tmp_path / "mine.json"
    out.write_text("old")
    assert cli("schedule", "pull", SHORT, "--out", str(out)) == (
        f"schedule {SHORT} of tiny is written to {out}".replace("\n", "")
    )
    assert codec.loads(Schedule, out.read_bytes()) == MINE
    monkeypatch.chdir(tmp_path)
    cli("schedule", "pull", SHORT)
    assert codec.loads(Schedule, Path("tiny.json").read_bytes()) == MINE
    assert sorted(path.name for path in tmp_path.glob("*.new")) == []


def test_pull_that_cannot_write_says_so_and_leaves_the_old_file(cli, nano, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="cannot be written: No such file or directory"):
        cli("schedule", "pull", SHORT, "--out", str(tmp_path / "none" / "mine.json"))
    out = tmp_path / "mine.json"
    out.write_text("old")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        cli("schedule", "pull", SHORT, "--out", str(out))
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".new")] == []


def test_pull_of_what_there_is_not(cli, nano, tmp_path):
    with pytest.raises(TailfleetError, match="there is no schedule 'ffff'"):
        cli("schedule", "pull", "ffff", "--out", str(tmp_path / "mine.json"))
    assert not (tmp_path / "mine.json").exists()
