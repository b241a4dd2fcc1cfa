"""The registering child: what it finds out of a model, what it writes, and what it refuses, over its real pipes."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch

from tailfleet_agent.worker import checkpoint, models
from tailfleet_agent.worker.backends import programs
from tailfleet_agent.worker.register import preprocessing_of, register
from tailfleet_reduce import METHODS
from tailfleet_reduce.anatomy import ModelRefused
from tailfleet_schema import codec
from tailfleet_schema.curve import SIZED, Part, Unit
from tailfleet_schema.errors import Blame, InputError
from tailfleet_schema.job import Job, JobKind
from tailfleet_schema.messages import RegisterOrder, RegisterReply, WorkerEvent
from tailfleet_schema.workload import Geometry, ModelSpec, Preprocessing, Workload

ARCHITECTURE = "deit_tiny_patch16_224"
SMALL = {"img_size": 32, "num_classes": 5}
"""Four patches instead of 196: the weights stay, the forward pass is short."""

GEOMETRY = Geometry(
    depth=12, dim=192, heads=3, mlp_dim=768, tokens=5, prefix=1, image_size=32, patch_size=16, channels=3, classes=5
)


@pytest.fixture
def run_register(tmp_path):
    """The real child's answer to a line: (exit status, reply or failure)."""

    def run(line, **environment):
        done = subprocess.run(
            [sys.executable, "-m", "tailfleet_agent.worker", "register"],
            input=line if isinstance(line, str) else codec.dumps(line) + "\n",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=300,
            # No proxy and no hub is asked, whatever this machine is told.
            env={
                **os.environ,
                "HF_HOME": str(tmp_path / "hub"),
                "TORCH_HOME": str(tmp_path / "torch"),
                **OFFLINE,
                **environment,
            },
        )
        (answer,) = done.stdout.splitlines()
        if "failure" in json.loads(answer):
            return done.returncode, codec.loads(WorkerEvent, answer).failure
        return done.returncode, codec.loads(RegisterReply, answer)

    return run


OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    # timm 0.6 asks a web server instead; nothing listens there.
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "no_proxy": "",
}


def weights(seed=2, **arguments):
    torch.manual_seed(seed)
    return timm.create_model(ARCHITECTURE, **arguments).state_dict()


def test_a_checkpoint_becomes_geometry_preprocessing_and_plain_arrays(run_register, tmp_path):
    """Fine-tuned at another image size, so its positions are resized as well."""
    original = weights(num_classes=5)
    np.savez(str(tmp_path / "mine.npz"), **{name: value.numpy() for name, value in original.items()})
    out = tmp_path / "out.npz"
    order = RegisterOrder("mine", ARCHITECTURE, SMALL, str(tmp_path / "mine.npz"), out=str(out))

    status, reply = run_register(order)

    assert status == 0
    assert reply.geometry == GEOMETRY
    assert reply.preprocessing == Preprocessing([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], "bicubic", 0.9, "center")
    assert reply.arguments == SMALL
    assert reply.wrote
    with np.load(str(out), allow_pickle=False) as arrays:
        assert arrays["pos_embed"].shape == (1, 5, 192)
        assert np.array_equal(arrays["head.weight"], original["head.weight"].numpy())
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_a_refusal_is_one_line_with_who_must_act(run_register, tmp_path):
    status, failure = run_register(RegisterOrder("cnn", "resnet18", {}, str(tmp_path / "none.pt")))
    assert status == 1
    assert failure.blame is Blame.AUTHOR
    # The family goes before the file, which is not looked for.
    assert "timm.models.resnet.ResNet cannot be reduced" in failure.sentence
    assert "\n" not in failure.sentence


def test_an_order_that_is_none_is_refused(run_register):
    status, failure = run_register('{"name": "x", "architecture": 3}\n')
    assert (status, failure.blame) == (1, Blame.AUTHOR)
    assert failure.sentence == "order.architecture: must be a text, not a whole number"


def test_weights_that_are_out_of_reach_say_what_to_do(run_register, tmp_path):
    order = RegisterOrder("hub", ARCHITECTURE, {}, pretrained=True, out=str(tmp_path / "out.npz"))
    status, failure = run_register(order)
    assert (status, failure.blame) == (1, Blame.LAB)
    assert "timm's weights for 'deit_tiny_patch16_224' cannot be fetched here" in failure.sentence
    assert failure.sentence.endswith(
        "mend: run this on a machine that reaches huggingface.co, or download the file there and pass"
        " --checkpoint FILE, or give --pretrained-on-board so that each board fetches it itself"
    )
    assert "\n" not in failure.sentence
    assert not (tmp_path / "out.npz").exists()


def test_timms_own_weights_are_written(run_register, tmp_path):
    """From the hub's cache, laid out as the hub's client does it: what it fetched once needs no network."""
    config = timm.create_model(ARCHITECTURE).pretrained_cfg
    if not config.get("hf_hub_id"):
        pytest.skip("timm {} does not fetch this model from the hub".format(timm.__version__))
    original = weights()
    cache = tmp_path / "hub" / "hub" / "models--{}".format(config["hf_hub_id"].replace("/", "--"))
    commit = "0123456789abcdef0123456789abcdef01234567"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(commit)
    (cache / "snapshots" / commit).mkdir(parents=True)
    from safetensors.torch import save_file

    save_file(original, str(cache / "snapshots" / commit / "model.safetensors"))
    out = tmp_path / "out.npz"

    status, reply = run_register(RegisterOrder("hub", ARCHITECTURE, {}, pretrained=True, out=str(out)))

    assert status == 0, reply
    assert reply.wrote
    assert reply.geometry.classes == 1000
    with np.load(str(out), allow_pickle=False) as arrays:
        assert sorted(arrays.files) == sorted(original)
        assert all(np.array_equal(arrays[name], value.numpy()) for name, value in original.items())


def test_weights_that_boards_fetch_themselves_are_not_fetched(monkeypatch):
    monkeypatch.setattr(models, "fetch_pretrained", lambda *_: pytest.fail("fetched"))
    reply = register(RegisterOrder("hub", ARCHITECTURE, {}, pretrained=True))
    assert not reply.wrote
    assert reply.geometry.tokens == 197


def test_a_model_of_plain_arguments_has_neither_weights_nor_a_config(tmp_path):
    arguments = {"img_size": 16, "patch_size": 4, "in_chans": 1, "embed_dim": 12, "depth": 1, "num_heads": 2}
    reply = register(RegisterOrder("own", "VisionTransformer", arguments, out=str(tmp_path / "out.npz")))
    assert not reply.wrote
    assert not (tmp_path / "out.npz").exists()
    assert reply.geometry.channels == 1
    # ImageNet's, one for the one channel.
    assert reply.preprocessing.mean == [pytest.approx((0.485 + 0.456 + 0.406) / 3)]
    assert len(reply.preprocessing.std) == 1


def test_preprocessing_is_what_timm_says_of_the_model():
    model = timm.create_model("vit_base_patch32_224", img_size=32)
    assert preprocessing_of(model, 3) == Preprocessing([0.5] * 3, [0.5] * 3, "bicubic", 0.9, "center")
    model.pretrained_cfg = model.default_cfg = {
        "mean": (0.1, 0.2, 0.3),
        "std": (1.0, 1.0, 1.0),
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "squash",
    }
    knows_modes = "crop_mode" in timm.data.resolve_data_config({}, model=model)
    mode = "squash" if knows_modes else "center"
    assert preprocessing_of(model, 3) == Preprocessing([0.1, 0.2, 0.3], [1.0] * 3, "bilinear", 1.0, mode)
    model.pretrained_cfg = model.default_cfg = {"interpolation": "hamming"}
    with pytest.raises(InputError, match="interpolation: unknown: 'hamming'"):
        preprocessing_of(model, 3)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architecture": "no_such_vit"}, "knows no architecture 'no_such_vit'"),
        ({"architecture": "hf-hub:someone/something"}, "knows no architecture"),
        ({"arguments": {"checkpoint_path": "/etc/passwd"}}, "sets checkpoint_path, which a spec may not"),
        ({"arguments": {"num_classes": "many"}}, "cannot build"),
        ({"checkpoint": "w.pt", "pretrained": True}, "not both"),
        ({"checkpoint": "/none/w.npz"}, "there is no checkpoint /none/w.npz"),
        (
            {"architecture": "VisionTransformer", "pretrained": True},
            "has no pretrained weights for 'VisionTransformer'",
        ),
        ({"arguments": {"num_classes": 10}, "pretrained": True}, "1000 classes apart, not the 10 of model 'x'"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes, sentence):
    order = {"name": "x", "architecture": ARCHITECTURE, "arguments": {}}
    order.update(changes)
    with pytest.raises(InputError, match=sentence):
        register(RegisterOrder(**order))


def test_a_family_is_refused_before_anything_is_fetched(monkeypatch):
    monkeypatch.setattr(models, "fetch_pretrained", lambda *_: pytest.fail("fetched"))
    monkeypatch.setattr(checkpoint, "read", lambda *_: pytest.fail("read"))
    for more in ({"checkpoint": "w.npz"}, {"pretrained": True, "out": "out.npz"}):
        with pytest.raises(ModelRefused):
            register(RegisterOrder("x", "resnet18", **more))


@pytest.mark.parametrize(
    ("architecture", "settings", "mlp_dim"),
    [
        ("eva02_tiny_patch14_224", {"img_size": 56}, 768),
        ("vit_small_patch16_dinov3", {"img_size": 64}, 1536),
        ("beit_base_patch16_224", {"img_size": 64}, 3072),
    ],
)
def test_families_whose_attention_knows_places_are_registered_and_timed(architecture, settings, mlp_dim, tmp_path):
    """What the farm then sends of it becomes the same model on a board, and every part of a sweep runs on it."""
    if not timm.is_model(architecture):
        pytest.skip("timm {} has no {}".format(timm.__version__, architecture))
    torch.manual_seed(3)
    try:
        settings = dict(settings, depth=2)
        original = timm.create_model(architecture, **settings)
    except TypeError:  # timm 0.6 lets no one change the depth
        del settings["depth"]
        original = timm.create_model(architecture, **settings)
    if hasattr(original.blocks[0].attn, "relative_position_bias_table"):
        torch.nn.init.normal_(original.blocks[0].attn.relative_position_bias_table)
    np.savez(str(tmp_path / "mine.npz"), **{key: value.numpy() for key, value in original.state_dict().items()})
    out = str(tmp_path / "out.npz")

    reply = register(RegisterOrder("x", architecture, settings, str(tmp_path / "mine.npz"), out=out))

    assert (reply.wrote, reply.geometry.mlp_dim) == (True, mlp_dim)
    with open(out, "rb") as file:
        content = file.read()
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / digest).write_bytes(content)
    spec = ModelSpec("x", architecture, reply.geometry, settings, digest, preprocessing=reply.preprocessing)
    most, prefix = reply.geometry.tokens, reply.geometry.prefix
    workload, whole = Workload(spec, 2, "eager", "fp32", "explicit"), Unit(Part.MODEL, most, most)
    made = programs.Programs(Job("job", JobKind.SWEEP, workload, [whole], 1, 1, 7), str(tmp_path), "cpu")
    units = [Unit(Part.FIXED, most, most), whole, Unit(Part.MODEL, prefix + 3, prefix + 3)]
    for n in (prefix + 7, most):
        units += [Unit(Part.ATTENTION, n, n), Unit(Part.ATTENTION, n, n, SIZED), Unit(Part.MLP, n, n)]
        units += [Unit(Part.REDUCE, n, n - 3, method) for method in sorted(METHODS)]
    with torch.no_grad():
        for unit in units:
            module, inputs = made.program(unit)
            left = module(*inputs)
            if unit is whole:
                torch.testing.assert_close(left, original.eval()(made.images))
            elif unit.part is Part.REDUCE:
                assert [one.shape[1] for one in left] == [unit.kept] * reply.geometry.depth
                assert all(torch.isfinite(one).all() for one in left)
            else:
                assert torch.isfinite(left).all()
