"""The public interface: what it is given that does not fit is refused in one clear sentence, before anything runs."""

import inspect
import re

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from tailfleet_reduce import METHODS, ModelRefused, apply, dissect, method_for
from tailfleet_reduce.queries import attach, untrained
from tailfleet_schema.errors import InputError, ScheduleError
from tailfleet_schema.schedule import Schedule, dense

IMAGES = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def model(build_family):
    return build_family("vit")


@pytest.fixture
def untouchable(model, monkeypatch):
    """The model, which must not run."""

    def refuse(*args, **kwargs):
        raise AssertionError("it ran")

    monkeypatch.setattr(torch.nn.Linear, "forward", refuse)
    monkeypatch.setattr(torch.nn.Conv2d, "forward", refuse)
    return model


def schedule(method="topk", keep=(26, 19, 15, 15), tokens=26, prefix=1, **further):
    return Schedule(method, "small", tokens, prefix, list(keep), **further)


def assert_one_sentence(error, words):
    text = str(error)
    assert re.search(words, text), text
    assert "\n" not in text
    assert len(text) < 200


@pytest.mark.parametrize(
    ("of", "words"),
    [
        (lambda: schedule(keep=(26, 19, 15)), "has 3 blocks, model 'small' has 4"),
        (lambda: schedule(tokens=25, keep=(25, 19, 15, 15)), "tokens: expects 25 tokens, but model 'small' has 26"),
        (lambda: schedule(prefix=2), "prefix: expects 2 tokens, but model 'small' has 1"),
    ],
    ids=["blocks", "tokens", "prefix"],
)
@pytest.mark.parametrize("method", [*sorted(METHODS), "dense"])
def test_a_schedule_of_another_shape_is_refused(untouchable, method, of, words):
    made = of()
    if method != "topk":
        keep = [made.tokens] * len(made.keep) if method == "dense" else [made.tokens - 5] * len(made.keep)
        made = schedule(method, keep, made.tokens, made.prefix)
    with pytest.raises(ScheduleError) as refusal:
        apply(untouchable, made)
    assert_one_sentence(refusal.value, words)


def test_a_schedule_for_another_model_is_refused(untouchable):
    with pytest.raises(ScheduleError) as refusal:
        apply(untouchable, schedule(), name="other")
    assert_one_sentence(refusal.value, "made for model 'small', not for 'other'")
    apply(untouchable, schedule(), name="small")


def test_a_method_that_is_not_known_is_refused(untouchable):
    with pytest.raises(ScheduleError) as refusal:
        schedule("magic")
    assert_one_sentence(refusal.value, "unknown method 'magic'; known: .*topk")
    with pytest.raises(ScheduleError) as refusal:
        method_for("magic", dissect(untouchable))
    assert_one_sentence(refusal.value, "cannot reduce by method 'magic'")
    assert refusal.value.mend


def test_parameters_that_a_method_does_not_have_are_refused():
    with pytest.raises(ScheduleError, match="no parameter 'alpha'"):
        schedule(parameters={"alpha": 1})


def test_a_schedule_of_a_model_without_a_name_is_compared_by_what_can_be_seen(model):
    with torch.no_grad():
        assert apply(model, schedule())(IMAGES).shape == (2, 7)


@pytest.mark.parametrize(
    "images", [IMAGES[:, :, :32, :32], IMAGES[:, :1], IMAGES[0]], ids=["size", "channels", "batch"]
)
def test_images_of_another_shape_are_refused(model, images):
    reduced = apply(model, dense("small", dissect(model).geometry()))
    with torch.no_grad(), pytest.raises(ScheduleError) as refusal:
        reduced(images)
    assert_one_sentence(refusal.value, r"takes images \(B, 3, 40, 40\), not ")


def test_images_that_become_another_number_of_tokens_are_refused():
    if "dynamic_img_size" not in inspect.signature(VisionTransformer).parameters:
        pytest.skip("this timm takes images of one size alone")
    small = {"img_size": 40, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 7}
    model = VisionTransformer(dynamic_img_size=True, **small).eval()
    reduced = apply(model, dense("small", dissect(model).geometry()))
    with torch.no_grad(), pytest.raises(ScheduleError) as refusal:
        reduced(IMAGES[:, :, :32, :32])
    assert_one_sentence(refusal.value, "expects 26 tokens, these images become 17")


def test_what_is_no_schedule_is_refused(untouchable):
    with pytest.raises(InputError) as refusal:
        apply(untouchable, "schedule.json")
    assert_one_sentence(refusal.value, "'schedule.json' is no schedule")


def test_a_forward_that_was_replaced_on_the_model_is_seen(model):
    model.forward_features = lambda images: images
    with pytest.raises(ModelRefused) as refusal:
        apply(model, schedule())
    assert_one_sentence(refusal.value, "its forward_features was replaced")


def test_queries_may_be_arrays(model):
    arrays = {block: torch.full((24,), 0.5).numpy() for block in (1, 2)}
    assert apply(model, schedule("cropr"), queries=arrays)(IMAGES).shape == (2, 7)
    with pytest.raises(InputError, match="as many numbers as the model is wide"):
        apply(model, schedule("cropr"), queries={1: "none"})


def test_cropr_without_queries_is_refused(untouchable):
    with pytest.raises(ScheduleError) as refusal:
        apply(untouchable, schedule("cropr"))
    assert_one_sentence(refusal.value, "'cropr' needs trained queries, and the model carries none")


@pytest.mark.parametrize(
    ("queries", "words"),
    [
        ({1: torch.zeros(25), 2: torch.zeros(24)}, r"query of block 1 is \(25,\), not 24 finite numbers"),
        ({1: torch.zeros(24), 2: torch.zeros(3, 24)}, r"query of block 2 is \(3, 24\), not 24 finite numbers"),
        ({1: torch.full((24,), float("nan"))}, "query of block 1 .*not 24 finite numbers"),
        ({1: torch.zeros(24), 4: torch.zeros(24)}, "query for block 4, but the model has 4"),
        ({-1: torch.zeros(24)}, "query for block -1, but the model has 4"),
        ({1: torch.zeros(24), 3: torch.zeros(24)}, "no Cropr queries are known for block 2; known are those of 1, 3"),
        ({}, "no Cropr queries are known for block 1; known are those of no block"),
    ],
    ids=["width", "not folded", "nan", "no such block", "below none", "lacking a block", "none"],
)
def test_queries_of_cropr_that_do_not_fit_are_refused(untouchable, queries, words):
    with pytest.raises(InputError) as refusal:
        apply(untouchable, schedule("cropr"), queries=queries)
    assert_one_sentence(refusal.value, words)


def test_queries_that_were_attached_are_used_unless_others_are_given(model):
    mine, others = untrained(4, 24, seed=1), untrained(4, 24, seed=2)
    with torch.no_grad():
        expected = {name: apply(model, schedule("cropr"), queries=q)(IMAGES) for name, q in ((1, mine), (2, others))}
        attach(model, mine)
        assert torch.equal(apply(model, schedule("cropr"))(IMAGES), expected[1])
        assert torch.equal(apply(model, schedule("cropr"), queries=others)(IMAGES), expected[2])
    assert not torch.equal(expected[1], expected[2])


def test_a_dense_schedule_of_any_method_needs_no_queries(model):
    with torch.no_grad():
        assert torch.allclose(apply(model, schedule("cropr", [26] * 4))(IMAGES), model(IMAGES), atol=1e-5)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_checkpoint_of_a_reduced_model_is_the_models_own(model, method):
    """What methods hold comes from the schedule, or lies beside the weights."""
    reduced = apply(model, schedule(method, (26, 19, 15, 15)), queries=untrained(4, 24))
    assert {name[len("model.") :] for name in reduced.state_dict()} == set(model.state_dict())
