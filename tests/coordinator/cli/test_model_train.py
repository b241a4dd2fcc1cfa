"""``tailfleet model train-cropr`` as it is typed; a made-up child stands for the one with torch, but for one test."""

import json
import signal
import sys

import numpy as np
import pytest

from tailfleet_coordinator import bundled
from tailfleet_coordinator.cli import main
from tailfleet_coordinator.library import training
from tailfleet_schema import codec
from tailfleet_schema.errors import Blame
from tailfleet_schema.job import Failure
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.training import Judged, TrainEvent, TrainOrder, state_path

SCHEDULE = Schedule("cropr", "digits_vit", 197, 1, [150] * 11 + [197], restore_before=11)
TOLD = [
    TrainEvent(0.0, schedule=SCHEDULE),
    TrainEvent(0.5),
    TrainEvent(1.0, 2.5, 0.25),
    TrainEvent(2.0, 1.5),
    TrainEvent(2.0, judged=Judged(200, 99.5, 98.0)),
]


@pytest.fixture
def tailfleet(monkeypatch, capsys):
    """``tailfleet("model", "list")``: exit status, standard output, standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tailfleet", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main.main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return run


@pytest.fixture
def child(monkeypatch, tmp_path):
    """``child(events, then)``: a child that tells ``events``, and then runs ``then``; what it was ordered."""
    ordered = tmp_path / "ordered.json"

    def told(events, then="pass"):
        lines = [codec.dumps(event) for event in events]
        script = (
            "import sys, os, json, signal\n"
            f"line = sys.stdin.readline(); open({str(ordered)!r}, 'w').write(line); order = json.loads(line)\n"
            f"for told in {lines!r}: print(told, flush=True)\n{then}\n"
        )
        monkeypatch.setattr(training, "CHILD", (sys.executable, "-c", script))
        return lambda: codec.loads(TrainOrder, ordered.read_text())

    return told


def test_digits_are_trained_and_what_came_of_it_is_told(tailfleet, child, tmp_path):
    ordered = child(TOLD)
    out = tmp_path / "new" / "out.npz"
    status, said, err = tailfleet(
        "model", "train-cropr", "digits_vit", "--dataset", "digits", "--keep", "0.5", "--epochs", "2", "--out", out
    )
    assert status == 0, err
    order = ordered()
    assert (order.split, order.folder, order.keep_share, order.drop, order.schedule) == ("train", None, 0.5, None, None)
    assert (order.fusion, order.fine_tune, order.epochs, order.resume) == (False, True, 2, False)
    assert order.model in bundled.models()
    assert err.splitlines() == [
        "epoch 1/2  loss of queries 2.500, of the model 0.250",
        "epoch 2/2  loss of queries 1.500",
    ]
    assert said.splitlines()[:2] == [
        "tokens that leave each block, of 197: 150×11 197×1",
        "top-1 on 200 calibration images: dense 99.5 %, with 80 % of the tokens 98.0 %",
    ]
    assert f"tailfleet model add NAME --like digits_vit --checkpoint {out}" in said
    assert codec.loads(Schedule, out.with_suffix(".schedule.json").read_text()) == SCHEDULE


def test_a_folder_is_divided_and_a_schedule_is_read(tailfleet, child, tmp_path, pets):
    ordered = child(TOLD)
    file = tmp_path / "schedule.json"
    file.write_text(codec.dumps(SCHEDULE))
    (pets / "cat" / "notes.txt").write_text("x")
    status, _, err = tailfleet(
        "model", "train-cropr", "digits_vit", "--dataset", pets, "--schedule", file, "--no-fine-tune", "--seed", "3",
        "--fusion", "--resume", "--epochs", "2", "--out", tmp_path / "o.npz",
    )  # fmt: skip
    assert status == 0, err
    order = ordered()
    assert order.schedule == SCHEDULE
    assert (order.split, order.folder) == ("evaluation", str(pets))
    assert order.dataset.calibration_images == 2
    assert order.dataset.evaluation_images == 7
    assert (order.fine_tune, order.seed, order.fusion, order.resume) == (False, 3, True, True)
    assert err.splitlines()[0] == "note: 1 files are no images by their names and are left out: notes.txt"


def test_refusals_are_one_sentence(tailfleet, child, tmp_path):
    child([TrainEvent(0.0, failure=Failure("the disk is full; mend: buy another", Blame.LAB))])
    start = ("model", "train-cropr", "digits_vit", "--out", tmp_path / "o.npz", "--dataset")
    assert tailfleet(*start, "digits", "--drop", "3") == (
        1, "", "tailfleet: the disk is full\n  mend: buy another\n",
    )  # fmt: skip
    for arguments, words in (
        (("nowhere", "--drop", "3"), "neither a bundled dataset (digits) nor a folder"),
        (("digits",), "by one of --keep, --drop and --schedule"),
        (("digits", "--drop", "3", "--keep", "0.5"), "by one of --keep, --drop and --schedule"),
        (("digits", "--schedule", tmp_path / "none.json"), "cannot read"),
        (("digits", "--drop", "3", "--out", tmp_path / "o.pt"), "o.pt is no file whose name ends in .npz"),
    ):
        status, said, err = tailfleet(*start, *arguments)
        assert (status, said) == (2, "")
        assert words in err
    child(TOLD[:2], "sys.exit('out of memory')")
    status, _, err = tailfleet(*start, "digits", "--drop", "3")
    assert status == 1
    assert "training ended before its end: out of memory" in err
    child([], "print('hello')")
    assert "no event" in tailfleet(*start, "digits", "--drop", "3")[2]


@pytest.fixture
def heard():
    """Ctrl-C is heard here even where whoever started the tests lets background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.usefixtures("heard")
def test_ctrl_c_says_what_is_kept(tailfleet, child, tmp_path, kept):
    out = tmp_path / "o.npz"
    if kept:
        with open(state_path(str(out)), "wb") as file:
            np.savez(file, epoch=np.array(1))
    child(TOLD[:3], "os.kill(os.getppid(), signal.SIGINT); signal.pause()")
    status, said, _ = tailfleet(
        "model", "train-cropr", "digits_vit", "--dataset", "digits", "--drop", "3", "--epochs", "2", "--out", out
    )
    assert status == 130
    assert said.splitlines()[-1] == (
        "interrupted; 1 of 2 epochs are kept: the same command with --resume goes on"
        if kept
        else "interrupted before the end of an epoch; nothing is kept"
    )


def test_the_result_is_registered_as_the_model_it_comes_from(live, tailfleet, child, tmp_path, monkeypatch):
    monkeypatch.setenv("TAILFLEET_URL", live.url)
    monkeypatch.setenv("TAILFLEET_TOKEN", live.operator)
    (original,) = [spec for spec in bundled.models() if spec.name == "digits_vit"]
    live.lab.store.put_dataset(bundled.datasets()[0][0])
    live.lab.store.put_model(original)
    weights = tmp_path / "weights.npz"
    with np.load(bundled.CHECKPOINT) as arrays:
        np.savez(weights, **arrays, **{"cropr.0": np.ones(96, dtype=np.float32)})
    child(TOLD, f"import shutil; shutil.copy({str(weights)!r}, order['out'])")
    out = tmp_path / "o.npz"
    status, said, err = tailfleet(
        "model", "train-cropr", "digits_vit", "--dataset", "digits", "--drop", "3", "--out", out, "--add", "mine"
    )
    assert status == 0, err
    assert "model mine is registered" in said
    assert json.loads(out.with_suffix(".schedule.json").read_text())["model"] == "mine"
    assert tailfleet("model", "add", "again", "--like", "digits_vit", "--checkpoint", out)[0] == 0
    started = ("model", "train-cropr", "digits_vit", "--dataset", "digits", "--drop", "3", "--out", out)
    assert "there is a model 'mine' already" in tailfleet(*started, "--add", "mine")[2]
    known = {spec.name: spec for spec in live.lab.store.list_models()}
    for name in ("mine", "again"):
        assert known[name].preprocessing == original.preprocessing
        assert known[name].geometry == original.geometry
        assert known[name].dataset == "digits"
    assert known["mine"].checkpoint_sha256 == known["again"].checkpoint_sha256
    status, _, err = tailfleet("model", "add", "neither", "--checkpoint", out)
    assert (status, err.splitlines()[0]) == (2, "tailfleet: a model has an architecture")
