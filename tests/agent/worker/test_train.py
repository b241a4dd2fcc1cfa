"""Training on a bundled dataset: which patches are seen, where positions start, and that it learns."""

import numpy as np
import pytest
import torch

from tailfleet_agent.worker import datasets, models, train
from tailfleet_reduce import dissect
from tailfleet_schema.workload import Geometry, ModelSpec, Preprocessing

ARGUMENTS = {"img_size": 8, "patch_size": 2, "in_chans": 1, "num_classes": 2, "embed_dim": 16, "depth": 1}
SPEC = ModelSpec(
    name="tiny",
    architecture="VisionTransformer",
    geometry=Geometry(1, 16, 2, 64, tokens=17, prefix=1, image_size=8, patch_size=2, channels=1, classes=2),
    arguments=dict(ARGUMENTS, num_heads=2, mlp_ratio=4),
    dataset="lamps",
    preprocessing=Preprocessing([0.2], [0.4], "bilinear"),
)


def lamps(count):
    """Bright pictures and dark ones."""
    random = np.random.RandomState(4)
    labels = np.arange(count) % 2
    pixels = random.randint(0, 60, (count, 8, 8)) + 160 * labels[:, None, None]
    return datasets.ArrayImages(pixels.astype(np.uint8), torch.from_numpy(labels))


def test_what_weighs_twice_as_much_is_drawn_twice_as_often_and_nothing_twice():
    torch.manual_seed(0)
    drawn = train.draw(torch.tensor([1.0, 2.0, 1.0]).repeat(4000, 1), 2)
    assert drawn.shape == (4000, 2)
    assert bool((drawn[:, 0] != drawn[:, 1]).all())
    assert float((drawn[:, 0] == 1).float().mean()) == pytest.approx(0.5, abs=0.03)


def test_ink_is_counted_on_each_patch_and_none_is_never_seen():
    images = torch.zeros(1, 1, 4, 4)
    images[0, 0, 0, 2:] = 1.0  # two of the four pixels of the second patch
    ink = train.ink_of(images - 0.5, -0.5, 2)
    assert ink.shape == (1, 4)
    assert bool((ink > 0).all())
    assert float(ink[0, 1] - ink[0, 0]) == pytest.approx(0.5)
    assert float(train.ink_of(torch.zeros(1, 1, 4, 4), 0.0, 2).min()) > 0


def test_with_ink_the_inked_patches_reach_the_blocks():
    torch.manual_seed(0)
    model = models.build(SPEC, "", 1)
    anatomy = dissect(model)
    with torch.no_grad():
        anatomy.embed = lambda images: torch.arange(17.0)[None, :, None].expand(images.shape[0], -1, 16)
        seen = []
        anatomy.blocks[0].attention = lambda x, state: seen.append(x[:, :, 0].long()) or x
        ink = torch.full((5, 16), 1e-9)
        ink[:, [3, 7]] = 1.0
        train.forward(anatomy, torch.zeros(5, 1, 8, 8), 2 / 16, ink)
        train.forward(anatomy, torch.zeros(5, 1, 8, 8), 1.0)
    assert [sorted(row) for row in seen[0].tolist()] == [[0, 4, 8]] * 5
    assert seen[1].tolist() == [list(range(17))] * 5


def test_sine_positions_tell_every_place_apart_and_neighbours_are_the_most_alike():
    places = train.sine_positions(14, 96)
    assert places.shape == (1, 196, 96)
    apart = torch.cdist(places[0], places[0]) + torch.eye(196) * 1e9
    assert float(apart.min()) > 0.1
    for place in (0, 100, 195):
        row, column = divmod(int(apart[place].argmin()), 14)
        assert abs(row - place // 14) + abs(column - place % 14) == 1


@pytest.mark.parametrize("recipe", [train.Recipe(3e-3, 2), train.Recipe(3e-3, 2, True, True)])
def test_it_learns_and_a_seed_decides_all(recipe):
    weights = []
    for _ in range(2):
        model = models.build(SPEC, "", 1)
        done = []
        train.train(model, lamps(128), SPEC, 8, 7, recipe, done.append)
        weights.append(models.save(model))
        assert done == list(range(1, 9))
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert train.top1(model, lamps(128), SPEC) == 1.0
    assert not any(parameter.requires_grad for parameter in model.parameters())
