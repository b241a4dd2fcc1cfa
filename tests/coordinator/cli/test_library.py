"""``tailfleet model`` and ``tailfleet dataset`` as they are typed: what they print, and exit statuses."""

import json
import sys

import pytest

from tailfleet_coordinator.cli import main
from tailfleet_coordinator.cli.model import settings_of
from tailfleet_coordinator.cli.up import folders_of
from tailfleet_schema.errors import InputError
from tailfleet_schema.workload import DatasetSpec


@pytest.fixture
def tailfleet(live, monkeypatch, capsys):
    """``tailfleet("model", "list")``: exit status, standard output, standard error."""
    monkeypatch.setenv("TAILFLEET_URL", live.url)
    monkeypatch.setenv("TAILFLEET_TOKEN", live.operator)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tailfleet", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main.main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return run


def test_a_dataset_is_added_listed_and_shown(live, tailfleet, pets):
    (pets / "cat" / "notes.txt").write_text("x")
    status, out, err = tailfleet("dataset", "add", "pets", pets)
    assert status == 0, err
    assert out == "dataset pets is registered: 2 classes, 3 calibration and 6 evaluation images\n"
    assert err == "note: 1 files are no images by their names and are left out: notes.txt\n"
    (spec,) = live.lab.store.list_datasets()
    assert "was registered already" in tailfleet("dataset", "add", "pets", pets)[1]
    assert spec.sha256[:12] in tailfleet("dataset", "list")[1]
    shown = tailfleet("dataset", "show", "pets")[1]
    assert spec.pack_sha256 in shown
    assert [line.strip("│ ").split("│") for line in shown.splitlines() if "cat" in line or "dog" in line]
    live.lab.store.put_dataset(DatasetSpec("plain", "0" * 64, 2, 30, 60, "a test"))
    assert "2 classes, 30 calibration, 60 evaluation images" in tailfleet("dataset", "show", "plain")[1]


def test_images_without_labels_are_added_listed_and_shown(live, tailfleet, pets):
    status, out, err = tailfleet("dataset", "add", "pets", pets, "--no-labels", "--index-only")
    assert status == 0, err
    assert out.startswith("dataset pets is registered: no labels, 3 calibration and 6 evaluation images\n")
    assert "plans that weigh agreement need them here, too" in out
    shown = tailfleet("dataset", "show", "pets")[1]
    assert "no labels, 3 calibration, 6 evaluation images" in shown
    assert "models are judged by how often a reduced one answers as the dense one does" in shown
    assert "accuracy" not in out + shown


def test_options_of_a_dataset(live, tailfleet, pets, tmp_path):
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"cat": 4, "dog": 1}))
    status, out, err = tailfleet(
        "dataset", "add", "pets", pets, "--calibration", "3", "--evaluation", "0.34", "--seed", "5",
        "--class-index", index, "--index-only",
    )  # fmt: skip
    assert status == 0, err
    assert "5 classes, 3 calibration and 3 evaluation images" in out
    assert "tailfleet-agent dataset pets FOLDER" in out
    assert "tailfleet up --dataset pets=FOLDER" in out
    (spec,) = live.lab.store.list_datasets()
    assert spec.pack_sha256 is None
    assert "each board names a folder" in tailfleet("dataset", "show", "pets")[1]
    assert tailfleet("dataset", "add", "pets", pets)[0] == 2
    assert tailfleet("dataset", "add", "pets", pets, "--replace")[0] == 0


def test_a_folder_that_cannot_be_meant(live, tailfleet, pets, tmp_path):
    (tmp_path / "odd.json").write_text('["cat"]')
    for arguments, words in (
        ((tmp_path / "nowhere",), "there is no"),
        ((pets / "cat" / "0.png",), "is a file, not a folder"),
        ((pets / "cat",), "has no class folders"),
        ((pets, "--calibration", "some"), "neither a number"),
        ((pets, "--calibration", "1.5"), "between 0 and 1"),
        ((pets, "--evaluation", "9"), "ask for fewer"),
        ((pets, "--class-index", tmp_path / "nowhere.json"), "cannot be read"),
        ((pets / "cat",), "or add them with --no-labels"),
        ((pets, "--class-index", tmp_path / "odd.json"), "not a JSON object of folder to label"),
    ):
        status, out, err = tailfleet("dataset", "add", "pets", *arguments)
        assert (status, out) == (2, ""), arguments
        assert words in err
        assert err.startswith("tailfleet: ")
        assert "Traceback" not in err
    assert live.lab.store.list_datasets() == []
    assert tailfleet("dataset", "show", "ghost")[0] == 2


def test_a_model_with_random_weights_is_told_to_be_so(live, tailfleet):
    status, out, err = tailfleet(
        "model", "add", "mine", "--arch", "VisionTransformer", "--img-size", "32", "--patch-size", "8", "--num-classes",
        "3", "--in-chans", "1", "--set", "embed_dim=24", "--set", "depth=2", "--set", "num_heads=2",
    )  # fmt: skip
    assert status == 0, err
    assert "model mine is registered: 2 blocks of 24, 17 tokens, 32 px, 3 classes" in out
    assert "its weights are random: its latency is real, its accuracy is not asked for" in out
    spec = live.lab.store.get_model("mine")
    assert spec.arguments == {
        "img_size": 32, "patch_size": 8, "num_classes": 3, "in_chans": 1, "embed_dim": 24, "depth": 2, "num_heads": 2,
    }  # fmt: skip
    assert "mine" in tailfleet("model", "list")[1]
    shown = tailfleet("model", "show", "mine")[1]
    assert "tokens: 17\n" in shown
    assert "weights: random\n" in shown
    assert "mean: " in shown


def test_a_model_that_cannot_be_meant(live, tailfleet, tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"x")
    live.lab.store.put_dataset(DatasetSpec("pets", "0" * 64, 2, 30, 60, "a test"))
    for arguments, words in (
        (("mine", "--checkpoint", tmp_path / "nowhere.npz"), "there is no file"),
        (("mine", "--checkpoint", tmp_path / "weights.bin"), "weights.bin is of no kind that is read here"),
        (("mine", "--pretrained", "--pretrained-on-board"), "one set of weights"),
        (("mine", "--dataset", "pets"), "random weights"),
        (("mine", "--dataset", "ghost", "--pretrained"), "no dataset is called 'ghost'"),
        (("my model",), "cannot be called 'my model'"),
        (("mine", "--set", "depth"), "is not KEY=VALUE"),
        (("mine", "--set", "global_pool=avg"), "a text stands in double quotes"),
    ):
        status, out, err = tailfleet("model", "add", "--arch", "vit_tiny_patch16_224", *arguments)
        assert (status, out) == (2, ""), arguments
        assert words in err
        assert "Traceback" not in err
    assert tailfleet("model", "show", "ghost")[0] == 2
    assert [model.name for model in live.lab.store.list_models()] == ["tiny"]


def test_folders_that_the_coordinator_is_to_read(tailfleet, pets, tmp_path):
    assert folders_of([f"pets={pets}"]) == {"pets": pets}
    for text, words in (
        ("pets", "is not NAME=FOLDER"),
        ("=/tmp", "is not NAME=FOLDER"),
        (f"pets={tmp_path / 'nowhere'}", "there is no folder"),
    ):
        status, _, err = tailfleet("up", "--state", tmp_path / "state", "--dataset", text)
        assert status == 2
        assert words in err
    assert not (tmp_path / "state").exists()


def test_arguments_for_timm_are_json():
    assert settings_of(["depth=2", 'global_pool="avg"', "qkv_bias=false", "init_values=1e-5"]) == {
        "depth": 2, "global_pool": "avg", "qkv_bias": False, "init_values": 1e-5,
    }  # fmt: skip
    for text in ("=1", "depth", "depth=", "depth=NaN", "depth=" + "9" * 30):
        with pytest.raises(InputError):
            settings_of([text])
