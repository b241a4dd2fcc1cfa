"""Segmentation from patch tokens: where each pixel's logits come from, what is refused, and the measure of quality."""

import math

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tailfleet_reduce import apply, dissect
from tailfleet_reduce.segmentation import PatchSegmenter, confusions, mean_iou, mean_iou_of, patch_labels
from tailfleet_schema.errors import InputError, ScheduleError
from tailfleet_schema.schedule import Schedule, dense

CLASSES = 5
IMAGES = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(3))


def small(**arguments):
    torch.manual_seed(1)
    given = {"img_size": 24, "patch_size": 8, "num_classes": 0, "embed_dim": 12, "depth": 2, "num_heads": 2}
    return VisionTransformer(global_pool="", **dict(given, **arguments)).eval()


def schedule_of(model, keep):
    geometry = dissect(model).geometry()
    return Schedule("topk", "small", geometry.tokens, geometry.prefix, keep)


@pytest.mark.parametrize("class_token", [True, False])
def test_each_pixel_is_labelled_by_its_own_patch(class_token):
    model = small(class_token=class_token)
    segmenter = PatchSegmenter(dissect(model), CLASSES).eval()
    with torch.no_grad():
        logits = segmenter(IMAGES)
        tokens = model.forward_features(IMAGES)[:, int(class_token) :]
        assert logits.shape == (2, CLASSES, 24, 24)
        for y, x in ((0, 0), (3, 17), (20, 9)):
            values = segmenter.head(tokens[:, y // 8 * 3 + x // 8]).reshape(2, CLASSES, 8, 8)
            assert torch.allclose(logits[:, :, y, x], values[:, :, y % 8, x % 8], atol=1e-6)


def test_labels_are_cut_as_logits_are_laid():
    labels = torch.arange(2 * 24 * 24).reshape(2, 24, 24)
    cut = patch_labels(labels, 8)
    assert cut.shape == (2, 9, 8, 8)
    segmenter = PatchSegmenter(dissect(small()), 1)
    assert torch.equal(segmenter.unpatch(cut[:, :, None])[:, 0], labels)


def test_a_schedule_that_reduces_nothing_gives_the_dense_logits_with_the_same_head():
    model = small()
    whole = PatchSegmenter(dissect(model), CLASSES)
    reduced = PatchSegmenter(apply(model, dense("small", dissect(model).geometry())), CLASSES, whole.head)
    with torch.no_grad():
        assert (whole(IMAGES) - reduced(IMAGES)).abs().max() <= 1e-5


def test_tokens_that_are_not_put_back_are_refused():
    model = small()
    reduced = apply(model, schedule_of(model, [10, 6]))
    with pytest.raises(ScheduleError, match="5 of 9 patches reach the head") as refusal:
        PatchSegmenter(reduced, CLASSES)
    assert "restore_before" in refusal.value.mend


def test_tokens_that_are_put_back_are_labelled_in_their_own_places():
    model = small(depth=3)
    geometry = dissect(model).geometry()
    schedule = Schedule("topk", "small", 10, geometry.prefix, [6, 6, 10], restore_before=2)
    reduced = apply(model, schedule)
    segmenter = PatchSegmenter(reduced, CLASSES)
    with torch.no_grad():
        values = segmenter.head(model.norm(reduced.forward_tokens(IMAGES)))[:, 1:].reshape(2, 9, CLASSES, 8, 8)
        logits = segmenter(IMAGES)
    assert torch.allclose(logits[:, :, 8:16, 16:], values[:, 5], atol=1e-6)


def test_a_head_of_another_shape_is_refused():
    with pytest.raises(InputError, match=r"12 channels to 60 values.*need 12 to 320"):
        PatchSegmenter(dissect(small()), CLASSES, nn.Linear(12, 60))


def test_mean_iou_counts_pixel_by_pixel():
    torch.manual_seed(2)
    predicted, labels = torch.randint(0, CLASSES, (2, 3, 6, 6))
    labels[:, 0] = 255
    predicted[predicted == 4], labels[labels == 4] = 0, 1  # class 4 is nowhere
    pairs = [(int(p), int(t)) for p, t in zip(predicted.flatten(), labels.flatten()) if t != 255]
    shares = []
    for one in range(4):
        both = sum(p == one and t == one for p, t in pairs)
        either = sum(p == one or t == one for p, t in pairs)
        shares.append(both / either)
    assert mean_iou(predicted, labels, CLASSES, ignore=255) == pytest.approx(sum(shares) / 4)


def test_confusions_are_each_images_own_and_add_up():
    predicted = torch.tensor([[[0, 1], [1, 1]], [[2, 2], [0, 2]]])
    labels = torch.tensor([[[0, 0], [1, 1]], [[2, 2], [2, 2]]])
    found = confusions(predicted, labels, 3)
    assert found.tolist() == [[[1, 1, 0], [0, 2, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0], [1, 0, 3]]]
    assert mean_iou_of(found) == mean_iou(predicted, labels, 3) == pytest.approx((1 / 3 + 2 / 3 + 3 / 4) / 3)
    assert math.isnan(mean_iou(predicted, torch.full_like(labels, 9), 3, ignore=9))


@pytest.mark.parametrize(
    ("predicted", "labels", "sentence"),
    [
        (torch.zeros(1, 2, 2), torch.zeros(1, 2, 3), "same pixels"),
        (torch.full((1, 2, 2), 3), torch.zeros(1, 2, 2), "predictions must lie between 0 and 2"),
        (torch.zeros(1, 2, 2), torch.full((1, 2, 2), -1), "labels must lie between 0 and 2"),
    ],
)
def test_what_is_no_pair_of_class_maps_is_refused(predicted, labels, sentence):
    with pytest.raises(InputError, match=sentence):
        confusions(predicted, labels, 3)
