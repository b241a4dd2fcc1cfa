"""Registering through the real child: what it tells becomes a spec, what it refuses an error of the same blame."""

import sys

import numpy
import pytest

from tailfleet_coordinator.library import models
from tailfleet_schema.errors import ConfigurationError, InputError, InternalError
from tailfleet_schema.messages import RegisterOrder

TINY = {"img_size": 32, "patch_size": 8, "num_classes": 3, "embed_dim": 24, "depth": 2, "num_heads": 2}


def test_a_model_with_random_weights():
    with models.register("mine", "VisionTransformer", TINY) as registered:
        spec = registered.spec
        assert registered.weights is None
    assert (spec.name, spec.architecture, spec.arguments) == ("mine", "VisionTransformer", TINY)
    assert (spec.geometry.tokens, spec.geometry.depth, spec.geometry.classes) == (17, 2, 3)
    assert (spec.checkpoint_sha256, spec.dataset, spec.pretrained) == (None, None, False)
    assert spec.preprocessing is not None


def test_weights_that_do_not_fit_are_the_author_s_fault(tmp_path):
    checkpoint = tmp_path / "weights.npz"
    numpy.savez(checkpoint, nonsense=numpy.zeros(3))
    with (
        pytest.raises(InputError, match="does not fit"),
        models.register("mine", "VisionTransformer", TINY, checkpoint=checkpoint),
    ):
        pass


def test_an_architecture_that_timm_does_not_know():
    with (
        pytest.raises(InputError, match="vit_smal_patch16_224") as refusal,
        models.register("mine", "vit_smal_patch16_224", {}),
    ):
        pass
    assert "vit_small_patch16_224" in f"{refusal.value.sentence} {refusal.value.mend}"


@pytest.fixture
def never(monkeypatch):
    """No child is started."""
    monkeypatch.setattr(models, "ask", None)


@pytest.mark.usefixtures("never")
def test_what_needs_no_child_to_be_refused(tmp_path):
    odd = tmp_path / "weights.bin"
    odd.write_bytes(b"x")
    for options, words in (
        ({"checkpoint": tmp_path / "nowhere.npz"}, "there is no file"),
        ({"checkpoint": tmp_path}, "there is no file"),
        ({"checkpoint": odd}, "weights.bin is of no kind"),
        ({"checkpoint": odd, "pretrained": True}, "one set of weights"),
        ({"pretrained": True, "pretrained_on_board": True}, "one set of weights"),
        ({"dataset": "pets"}, "random weights"),
    ):
        with pytest.raises(InputError, match=words), models.register("mine", "vit_tiny_patch16_224", {}, **options):
            pass
    with pytest.raises(InputError, match="cannot be called"), models.register("my model", "vit_tiny_patch16_224", {}):
        pass


@pytest.mark.parametrize(
    ("program", "kind", "words"),
    [
        ("raise SystemExit('no such package')", ConfigurationError, "no such package"),
        ("pass", ConfigurationError, "ended with status 0"),
        ("print('{}')", InternalError, "no answer"),
        ("print('hello')", InternalError, "no answer"),
        (
            'print(\'{"failure": {"sentence": "no torch; mend: pip install torch", "blame": "configuration"}}\')',
            ConfigurationError,
            "^no torch$",
        ),
    ],
)
def test_a_child_that_cannot_answer(monkeypatch, program, kind, words):
    monkeypatch.setattr(models, "CHILD", ("-c", program))
    with pytest.raises(kind, match=words) as refusal:
        models.ask(RegisterOrder("mine", "vit_tiny_patch16_224"))
    assert "no torch" not in words or refusal.value.mend == "pip install torch"
    assert sys.executable
