"""``tailfleet model export`` against the real application and the real child: what it writes, says and refuses."""

import hashlib
import json
import os
import sys
from dataclasses import replace

import numpy as np
import pytest

from tailfleet_coordinator.cli import main, model_export
from tailfleet_coordinator.client import Fleet
from tailfleet_coordinator.library import deploy
from tailfleet_schema import codec
from tailfleet_schema.errors import ConfigurationError, InputError, LabError
from tailfleet_schema.messages import DeployReply
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.workload import Geometry, ModelSpec, Preprocessing

ARGUMENTS = {
    "img_size": 32, "patch_size": 8, "num_classes": 3, "in_chans": 1, "embed_dim": 24, "depth": 2, "num_heads": 2,
}  # fmt: skip
SPEC = ModelSpec(
    "mine",
    "VisionTransformer",
    Geometry(2, 24, 2, 96, 17, 1, 32, 8, 1, 3),
    ARGUMENTS,
    preprocessing=Preprocessing([0.1307], [0.3081]),
)
TOPK = Schedule("topk", "mine", 17, 1, [12, 8])


@pytest.fixture
def tailfleet(live, monkeypatch, capsys):
    """``tailfleet("model", "export", …)``: exit status, standard output, standard error."""
    monkeypatch.setenv("TAILFLEET_URL", live.url)
    monkeypatch.setenv("TAILFLEET_TOKEN", live.operator)
    live.lab.store.put_model(SPEC)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tailfleet", "model", "export", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main.main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return run


@pytest.fixture
def orders(monkeypatch):
    """What the child was asked for; it writes nothing."""
    asked = []

    def ask(command, order, reply, *words):
        asked.append((order, sorted(os.listdir(order.artifacts))))
        return DeployReply(1_234_567, 3e-7, 4, "onnxruntime 1.31", "torch 2.15")

    monkeypatch.setattr(deploy.child, "ask", ask)
    return asked


@pytest.mark.slow
def test_a_trained_model_is_written_checked_and_runs(live, tailfleet, tmp_path, onnx_logits):
    with Fleet(live.url, live.operator) as fleet:
        arrays = _weights()
        np.savez(tmp_path / "weights.npz", **arrays)
        sha256 = fleet.upload(tmp_path / "weights.npz")
        live.lab.store.put_model(replace(SPEC, name="trained", checkpoint_sha256=sha256))
        digest = fleet.add_schedule(replace(TOPK, model="trained"))
    out = tmp_path / "trained.onnx"

    status, said, err = tailfleet("trained", "--schedule", digest[:8], "--out", out, "--batch", "any")

    assert status == 0, err
    assert "tokens that leave each block, of 17: 12×1 8×1" in said
    assert "its weights are random" not in said
    (logits,) = onnx_logits(out, np.zeros((3, 1, 32, 32), np.float32))
    assert logits.shape == (3, 3)
    # The head's weights are those of the checkpoint, not random ones.
    import onnx

    stored = [onnx.numpy_helper.to_array(one) for one in onnx.load(str(out)).graph.initializer]
    head = arrays["head.weight"]
    assert any(one.shape in (head.shape, head.T.shape) and abs(one).sum() == abs(head).sum() for one in stored)


def _weights():
    """Every parameter of the model, uneven."""
    random = np.random.default_rng(5)
    block = {"norm1": (24,), "attn.qkv": (72, 24), "attn.proj": (24, 24), "norm2": (24,), "mlp.fc1": (96, 24)}
    shapes = {"cls_token": (1, 1, 24), "pos_embed": (1, 17, 24), "patch_embed.proj": (24, 1, 8, 8)}
    for number in range(2):
        shapes |= {f"blocks.{number}.{name}": shape for name, shape in {**block, "mlp.fc2": (24, 96)}.items()}
    shapes |= {"norm": (24,), "head": (3, 24)}
    arrays = {}
    for name, shape in shapes.items():
        if name in ("cls_token", "pos_embed"):
            arrays[name] = random.normal(size=shape).astype(np.float32)
            continue
        arrays[name + ".weight"] = (0.3 * random.normal(size=shape) + (len(shape) == 1)).astype(np.float32)
        arrays[name + ".bias"] = (0.1 * random.normal(size=shape[:1])).astype(np.float32)
    return arrays


def test_a_schedule_from_a_file_a_digest_or_dense(live, tailfleet, orders, tmp_path):
    (tmp_path / "s.json").write_text(codec.dumps(TOPK))
    with Fleet(live.url, live.operator) as fleet:
        digest = fleet.add_schedule(replace(TOPK, keep=[9, 9]))
    for text in (tmp_path / "s.json", digest, digest[:6], "dense"):
        status, said, err = tailfleet("mine", "--schedule", text, "--out", tmp_path / "m.onnx", "--dtype", "fp16")
        assert status == 0, err
    assert [order.schedule.keep for order, _ in orders] == [[12, 8], [9, 9], [9, 9], [17, 17]]
    order = orders[0][0]
    assert (order.format, order.batch, order.dtype, order.opset) == ("onnx", 1, "fp16", None)
    assert order.out == str(tmp_path / "m.onnx")
    assert "1.2 MB, onnx, fp16, by torch 2.15" in said
    assert "its logits differ from eager's by 3e-07 at most" in said
    assert "its weights are random" in said
    assert "images (B, 1, 32, 32) float32, B 1, (pixels in 0 … 1 − mean 0.1307) / std 0.3081" in said


def test_the_checkpoint_is_fetched_and_a_wrong_one_refused(live, tailfleet, orders, tmp_path):
    content = b"weights" * 1000
    sha256 = hashlib.sha256(content).hexdigest()
    (tmp_path / "weights").write_bytes(content)
    with Fleet(live.url, live.operator) as fleet:
        fleet.upload(tmp_path / "weights")
        live.lab.store.put_model(replace(SPEC, name="trained", checkpoint_sha256=sha256))
        fleet.add_schedule(replace(TOPK, model="trained"))
        assert tailfleet("trained", "--schedule", "dense", "--out", tmp_path / "m.pt2")[0] == 0
        assert orders[0][1] == [sha256]
        assert orders[0][0].format == "pt2"
        live.artifacts.path(sha256).write_bytes(b"x" * 7000)
        with pytest.raises(LabError, match="is something else"):
            fleet.download(sha256, tmp_path / "copy")
        with pytest.raises(InputError, match="cannot be written: Is a directory"):
            fleet.download(sha256, tmp_path)


def test_what_a_campaign_planned(live, monkeypatch):
    """Which of a campaign's schedules is meant; what is stored of campaigns is the store's own test."""
    evit = replace(TOPK, method="evit")

    class Planned:
        def campaign(self, name):
            assert name == "c1"

        def schedules(self, board, model, campaign):
            import pandas

            assert (model, campaign) == ("mine", "c1")
            digests = {None: [TOPK.digest, evit.digest, TOPK.digest], "nano": [evit.digest], "away": []}[board]
            return pandas.DataFrame({"digest": digests})

        def schedule(self, digest):
            return {TOPK.digest: TOPK, evit.digest: evit}[digest]

    chosen = model_export._schedule
    assert chosen(Planned(), SPEC, None, "c1", "nano", None) == evit
    assert chosen(Planned(), SPEC, None, "c1", None, "topk") == TOPK
    with pytest.raises(InputError, match="planned 2 schedules for 'mine'"):
        chosen(Planned(), SPEC, None, "c1", None, None)
    with pytest.raises(InputError, match="planned no such schedule"):
        chosen(Planned(), SPEC, None, "c1", "away", None)


def test_what_cannot_be_meant_is_refused_in_a_sentence(live, tailfleet, orders, tmp_path):
    (tmp_path / "other.json").write_text(codec.dumps(replace(TOPK, model="other")))
    (tmp_path / "short.json").write_text(codec.dumps(replace(TOPK, tokens=16)))
    (tmp_path / "odd.json").write_text(json.dumps({"method": "magic"}))
    out = tmp_path / "m.onnx"
    for arguments, words in (
        (("ghost", "--schedule", "dense", "--out", out), "no model is called 'ghost'"),
        (("mine", "--out", out), "which schedule is meant?"),
        (("mine", "--schedule", "dense", "--campaign", "c", "--out", out), "which schedule is meant?"),
        (("mine", "--schedule", "dense", "--board", "b", "--out", out), "choose among a campaign's schedules"),
        (("mine", "--campaign", "c", "--out", out), "c"),
        (("mine", "--schedule", tmp_path / "other.json", "--out", out), "was made for model 'other', not for 'mine'"),
        (("mine", "--schedule", tmp_path / "short.json", "--out", out), "expects 16 tokens, but model 'mine' has 17"),
        (("mine", "--schedule", tmp_path / "odd.json", "--out", out), "schedule"),
        (("mine", "--schedule", tmp_path / "nowhere.json", "--out", out), "cannot read"),
        (("mine", "--schedule", "abcdef", "--out", out), "abcdef"),
        (("mine", "--schedule", "dense", "--out", tmp_path / "m.bin"), "names no format that is written here"),
        (("mine", "--schedule", "dense", "--out", out, "--format", "x"), "--format x names no format"),
        (("mine", "--schedule", "dense", "--out", out, "--batch", "few"), "is neither a number nor any"),
    ):
        status, _, err = tailfleet(*arguments)
        assert status == 2, arguments
        assert words in err, arguments
        assert err.startswith("tailfleet: ")
        assert "Traceback" not in err
    assert orders == []
    assert not out.exists()


def test_what_the_child_lacks_is_told_as_it_says_it(tailfleet, monkeypatch, tmp_path):
    def lacking(*_):
        raise ConfigurationError("onnx is not installed for python", "python -m pip install onnx")

    monkeypatch.setattr(deploy.child, "ask", lacking)
    status, _, err = tailfleet("mine", "--schedule", "dense", "--out", tmp_path / "m.onnx")
    assert status == 1
    assert err == "tailfleet: onnx is not installed for python\n  mend: python -m pip install onnx\n"
