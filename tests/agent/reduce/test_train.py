"""Training Cropr's queries: what learns, what is chosen, and going on after a stop."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from tailfleet_reduce import apply
from tailfleet_reduce.queries import attached
from tailfleet_reduce.train import (
    Classification,
    Detection,
    Scorer,
    Segmentation,
    Settings,
    Training,
    arrays,
    constant_drop,
    for_share,
    rate_factor,
    train,
    training,
)
from tailfleet_schema.errors import InputError, ScheduleError
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.workload import Geometry

CLASSES = 3
GRID = 5
FUSED = Schedule("cropr", "tiny", 26, 1, [18, 10, 10, 26], restore_before=3)
NARROWING = Schedule("cropr", "tiny", 26, 1, [20, 15, 10, 10])


def tiny(drop=0.0):
    torch.manual_seed(7)
    return VisionTransformer(
        img_size=40, patch_size=8, num_classes=CLASSES, embed_dim=12, depth=4, num_heads=2, drop_path_rate=drop
    ).eval()


class Spots:
    """Images of noise with one patch of light somewhere, whose colour is the class. In another order each time."""

    def __init__(self, count=24, batch=8, targets=lambda labels, masks: labels):
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randn(count, 3, 40, 40, generator=generator)
        self.lit = torch.randint(0, GRID**2, (count,), generator=generator)
        self.labels = torch.randint(0, CLASSES, (count,), generator=generator)
        self.masks = torch.zeros(count, 40, 40, dtype=torch.int64)
        for image, mask, label, lit in zip(self.images, self.masks, self.labels, self.lit.tolist()):
            row, column = lit // GRID * 8, lit % GRID * 8
            image[label, row : row + 8, column : column + 8] += 4
            mask[row : row + 8, column : column + 8] = label
        self.batch = batch
        self.targets = targets

    def __len__(self):
        return len(self.images) // self.batch

    def __iter__(self):
        for index in torch.randperm(len(self.images)).view(-1, self.batch):
            yield self.images[index], self.targets(self.labels[index], self.masks[index])


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def chosen(reduced, images):
    """Positions among all tokens that each reducing block kept, in the order of blocks."""
    found = []
    plan = reduced.method.plan

    def watched(evidence, kept):
        reduction = plan(evidence, kept)
        found.append(reduction.selected().clone())
        return reduction

    reduced.method.plan = watched
    reduced(images)
    del reduced.method.plan
    return found


def test_a_scorer_is_its_formula():
    torch.manual_seed(0)
    scorer, patches = Scorer(6, 2, 4).double(), torch.randn(1, 5, 6, dtype=torch.float64)
    expected = []
    for query in scorer.queries.detach():
        weights = [float(sum(query[c] * token[c] for c in range(6))) / 6**0.5 for token in patches[0]]
        raised = [torch.tensor(weight, dtype=torch.float64).exp() for weight in weights]
        found = sum(w / sum(raised) * token for w, token in zip(raised, patches[0]))
        expected.append(scorer.head(found + scorer.mlp(found)))
    assert torch.allclose(scorer(patches)[0], torch.stack(expected), atol=1e-12)
    assert scorer.mlp[1].out_features == 24
    assert torch.allclose(scorer.folded(), sum(scorer.queries).float())


def test_queries_begin_as_published():
    queries = Scorer(400, 200, 2).queries.detach()
    assert abs(float(queries.std()) - 400**-0.5) < 1e-3
    assert abs(float(queries.mean())) < 1e-3


@pytest.mark.parametrize("fine_tune", [False, True], ids=["frozen", "fine-tuned"])
@pytest.mark.parametrize("schedule", [FUSED, NARROWING], ids=["fused", "narrowing"])
def test_what_trains_and_what_is_deployed_pick_the_same_tokens(schedule, fine_tune):
    model, spots = tiny(), Spots()
    training = Training(
        model, schedule, Classification(CLASSES), spots, Settings(epochs=2, fine_tune=fine_tune, learning_rate=0.05)
    )
    for _ in range(2):
        before = training.queries()
        training.step_epoch()
        assert not same(before, training.queries())
        deployed = apply(model, schedule, queries=training.queries())
        with torch.no_grad():
            pairs = zip(chosen(training.reduced, spots.images), chosen(deployed, spots.images))
            assert all(torch.equal(*pair) for pair in pairs)
            assert torch.equal(training.reduced(spots.images), deployed(spots.images))
        training._learning.logits()


def test_without_fine_tuning_nothing_of_the_model_changes():
    model = tiny(drop=0.5).requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    queries = train(model, FUSED, Classification(CLASSES), Spots(), Settings(epochs=1, fine_tune=False))
    assert sorted(queries) == [0, 1, 2]  # of every block that a schedule may drop at
    assert all(query.shape == (12,) and query.dtype is torch.float32 for query in queries.values())
    assert same(attached(model), queries)
    assert same(before, model.state_dict())
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    assert not any(module.training for module in model.modules())
    held = arrays(model, queries)
    assert same({name: held.pop("cropr.{}".format(name)) for name in (0, 1, 2)}, queries)
    assert same(held, before)


def test_fine_tuning_changes_the_model_and_leaves_its_mode():
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, FUSED, Classification(CLASSES), Spots(), Settings(epochs=1, fine_tune=True))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert "patch_embed.proj.weight" in changed
    assert "head.weight" in changed
    assert not any(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_blocks_that_drop_nothing_learn_queries_too_and_change_nothing_of_the_others(monkeypatch):
    settings = Settings(epochs=1, clip=0.01)
    first = Training(tiny(), FUSED, Classification(CLASSES), Spots(), settings)
    before = first.queries()[2]
    first.step_epoch()
    assert not torch.equal(first.queries()[2], before)
    monkeypatch.setattr(training, "_blocks", lambda schedule: schedule.reducing_blocks)
    alone = Training(tiny(), FUSED, Classification(CLASSES), Spots(), settings)
    alone.step_epoch()
    assert sorted(alone.queries()) == [0, 1]
    assert all(torch.equal(first.queries()[block], query) for block, query in alone.queries().items())


def test_branches_teach_queries_alone():
    model, spots = tiny(), Spots()
    training = Training(model, FUSED, Classification(CLASSES), spots, Settings(fine_tune=True))
    images, labels = next(iter(spots))
    training.reduced.forward_tokens(images)
    assert training._learning.logits() == {}  # a look at it between epochs leaves nothing behind
    training._learning.watching = True
    training.reduced.forward_tokens(images)
    logits = training._learning.logits()
    sum(Classification(CLASSES).auxiliary_loss(one, labels) for one in logits.values()).backward()
    assert all(p.grad is None for p in model.parameters())
    assert sorted(logits) == [0, 1, 2]
    assert all(scorer.queries.grad.abs().sum() > 0 for scorer in training._scorers.values())
    assert training._learning.logits() == {}


def test_the_loss_is_the_sum_of_all_losses_and_its_weights_are_equal(monkeypatch):
    spots = Spots(count=8)
    training = Training(tiny(), FUSED, Classification(CLASSES), spots, Settings(fine_tune=True))
    handed = []
    monkeypatch.setattr(
        torch.autograd, "backward", lambda loss, step=torch.autograd.backward: (handed.append(loss), step(loss))
    )
    losses = training.step_epoch()
    assert float(handed[0].detach()) == pytest.approx(losses.main + losses.auxiliary, rel=1e-6)


def test_training_finds_the_patch_that_matters():
    model, spots = tiny(), Spots(count=64, batch=16)
    for block in model.blocks:
        # Tokens do not mix: what the class is, only the lit patch knows.
        torch.nn.init.zeros_(block.attn.proj.weight)
    schedule = Schedule("cropr", "tiny", 26, 1, [4, 4, 4, 4])
    training = Training(
        model, schedule, Classification(CLASSES), spots, Settings(epochs=15, fine_tune=False, learning_rate=0.02)
    )

    def found():
        """Share of images whose lit patch is among the three that are left."""
        reduced = apply(model, schedule, queries=training.queries())
        with torch.no_grad():
            return float((chosen(reduced, spots.images)[0] == spots.lit[:, None] + 1).any(1).float().mean())

    with torch.no_grad():
        training._scorers[0].queries.neg_()
    before = found()
    first = training.step_epoch().auxiliary
    while training.epoch < 15:
        losses = training.step_epoch()
    assert losses.auxiliary < 1.0 < first
    assert found() > before + 0.3


@pytest.mark.parametrize("fine_tune", [False, True], ids=["frozen", "fine-tuned"])
def test_a_training_that_was_stopped_ends_with_the_same_bits(fine_tune):
    settings = Settings(epochs=3, fine_tune=fine_tune, seed=4)
    states = []
    whole = tiny(drop=0.3)
    queries = train(
        whole, FUSED, Classification(CLASSES), Spots(), settings, after_epoch=lambda at, _: states.append(at.state())
    )
    assert [int(state["epoch"]) for state in states] == [1, 2, 3]
    torch.manual_seed(99)
    other = tiny(drop=0.3)
    ran = []
    resumed = train(
        other,
        FUSED,
        Classification(CLASSES),
        Spots(),
        settings,
        resume=states[0],
        after_epoch=lambda at, losses: ran.append(losses),
    )
    assert [losses.epoch for losses in ran] == [2, 3]
    assert same(queries, resumed)
    assert same(whole.state_dict(), other.state_dict())
    assert any("exp_avg_sq" in name for name in states[0])


def test_a_seed_decides_all_and_the_callers_random_state_is_left():
    def once(seed, callers):
        torch.manual_seed(callers)
        before = torch.get_rng_state()
        model = tiny()
        torch.set_rng_state(before)
        queries = train(model, FUSED, Classification(CLASSES), Spots(), Settings(epochs=1, seed=seed))
        assert torch.equal(torch.get_rng_state(), before)
        return queries

    assert same(once(1, 5), once(1, 6))
    assert not same(once(1, 5), once(2, 5))


def test_the_state_of_another_training_is_refused():
    model = tiny()
    state = Training(model, FUSED, Classification(CLASSES), Spots(), Settings()).state()
    for other, words in (
        (Training(model, NARROWING, Classification(CLASSES), Spots(), Settings()), "differs in schedule"),
        (Training(model, FUSED, Classification(CLASSES), Spots(), Settings(seed=1, epochs=3)), "in epochs, seed"),
        (Training(tiny(0.1).double(), FUSED, Classification(CLASSES), Spots(), Settings(epochs=4)), "in epochs"),
    ):
        with pytest.raises(InputError, match=words):
            other.restore(state)
    with torch.no_grad():
        model.head.bias += 1
    with pytest.raises(InputError, match="differs in weights"):
        Training(model, FUSED, Classification(CLASSES), Spots(), Settings()).restore(state)
    with pytest.raises(InputError, match="another training"):
        Training(model, FUSED, Classification(CLASSES), Spots(), Settings()).restore({})


def test_what_cannot_be_trained_is_refused():
    model, task = tiny(), Classification(CLASSES)
    for schedule in (Schedule("topk", "tiny", 26, 1, [9] * 4), Schedule("cropr", "tiny", 26, 1, [26] * 4)):
        with pytest.raises(ScheduleError, match="that reduces"):
            Training(model, schedule, task, Spots())
    with pytest.raises(InputError, match="no images"):
        Training(model, FUSED, task, Spots(count=0))
    with pytest.raises(InputError, match="3 classes apart, the images have 4"):
        Training(model, FUSED, Classification(4), Spots())
    with pytest.raises(InputError, match="with a head"):
        Training(model, FUSED, Segmentation(CLASSES, GRID), Spots(), Settings(fine_tune=True))
    done = Training(model, FUSED, task, Spots(), Settings(epochs=1))
    done.step_epoch()
    with pytest.raises(InputError, match="all 1 epochs"):
        done.step_epoch()
    with pytest.raises(InputError, match="at least one class"):
        Detection(0)
    for wrong in ({"epochs": 0}, {"learning_rate": 0.0}, {"clip": float("inf")}):
        with pytest.raises(InputError, match="must be"):
            Settings(**wrong)


def test_segmentation_asks_a_query_of_every_patch():
    model, spots = tiny(), Spots(targets=lambda labels, masks: masks)
    task = Segmentation(CLASSES, GRID)
    head = torch.nn.Linear(12, CLASSES * 64)
    before = head.weight.detach().clone()

    def pixels(x):
        laid = head(x[:, 1:]).reshape(-1, GRID, GRID, CLASSES, 8, 8).permute(0, 3, 1, 4, 2, 5)
        return laid.reshape(-1, CLASSES, 40, 40)

    class Pixels(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = head

        def forward(self, x):
            return pixels(x)

    training = Training(
        model, FUSED, task, spots, Settings(epochs=2, fine_tune=True, learning_rate=0.01), head=Pixels()
    )
    assert all(scorer.queries.shape == (GRID * GRID, 12) for scorer in training._scorers.values())
    first = training.step_epoch()
    assert training.step_epoch().auxiliary < first.auxiliary
    assert not torch.equal(head.weight, before)
    assert "head.head.weight" in training.state()


def test_labels_of_patches_are_those_of_their_middle_and_ignored_ones_count_nowhere():
    task = Segmentation(2, 2, ignore=255)
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    labels[0, 2, 6], labels[0, 6, 6], labels[0, 0, 0] = 1, 255, 1
    assert task.downsampled(labels).tolist() == [[0, 1, 0, 255]]
    logits = torch.randn(1, 4, 2, generator=torch.Generator().manual_seed(0))
    expected = -(logits[0].log_softmax(1)[[0, 1, 2], [0, 1, 0]]).mean()
    assert torch.allclose(task.auxiliary_loss(logits, labels), expected)
    assert float(task.auxiliary_loss(logits, torch.full_like(labels, 255))) == 0.0
    with pytest.raises(InputError, match="7 × 7 pixels cannot be divided into 2 × 2"):
        task.auxiliary_loss(logits, labels[:, :7, :7])


def test_detection_asks_which_classes_are_there():
    task = Detection(CLASSES)
    targets = [
        {"labels": torch.tensor([2, 0, 2]), "boxes": torch.rand(3, 4)},
        {"labels": torch.tensor([], dtype=torch.int64)},
    ]
    assert task.present(targets).tolist() == [[True, False, True], [False] * 3]
    logits = torch.randn(2, 1, CLASSES, generator=torch.Generator().manual_seed(0))
    p = logits[:, 0].sigmoid()
    expected = -torch.cat([p[0, [0, 2]].log(), (1 - p[0, 1:2]).log(), (1 - p[1]).log()]).mean()
    assert torch.allclose(task.auxiliary_loss(logits, targets), expected)
    assert float(task.main_loss({"boxes": torch.tensor(2.0), "classes": torch.tensor([1.0, 3.0])}, targets)) == 6.0
    with pytest.raises(InputError, match="between 0 and 2"):
        task.present([{"labels": torch.tensor([3])}])


def test_a_detector_is_trained_on_boxes():
    def boxes(labels, masks):
        return [{"labels": label[None], "boxes": torch.tensor([[0.0, 0.0, 8.0, 8.0]])} for label in labels]

    spots = Spots(targets=boxes)
    training = Training(
        tiny(), NARROWING, Detection(CLASSES), spots, Settings(epochs=6, fine_tune=False, learning_rate=0.02)
    )
    losses = [training.step_epoch() for _ in range(6)]
    assert losses[-1].auxiliary < losses[0].auxiliary
    assert losses[0].main is None


GEOMETRY = Geometry(
    depth=12, dim=96, heads=3, mlp_dim=384, tokens=197, prefix=1, image_size=28, patch_size=2, channels=1, classes=10
)


def test_a_constant_drop_is_the_published_schedule_until_few_are_left():
    plain = constant_drop("m", GEOMETRY, 8, fusion=False)
    assert plain.keep == [188, 180, 172, 164, 156, 148, 140, 132, 124, 116, 108, 108]
    fused = constant_drop("m", GEOMETRY, 30)
    assert fused.keep == [166, 136, 106, 76, 46, 16, 13, 13, 13, 13, 13, 197]
    assert fused.restore_before == 11
    with pytest.raises(ScheduleError, match="leaves nothing"):
        constant_drop("m", GEOMETRY, 0)


@pytest.mark.parametrize("fusion", [False, True])
@pytest.mark.parametrize("share", [0.8, 0.5, 0.3])
def test_a_share_is_met_by_the_smallest_drop(share, fusion):
    schedule = for_share("m", GEOMETRY, share, fusion)
    assert sum(schedule.entering) <= share * 12 * 197
    less = constant_drop("m", GEOMETRY, schedule.tokens - 1 - schedule.keep[0] - 1, fusion)
    assert sum(less.entering) > share * 12 * 197


def test_a_share_that_no_drop_reaches_is_refused():
    with pytest.raises(ScheduleError, match=r"the least is 0\.2"):
        for_share("m", GEOMETRY, 0.15)
    with pytest.raises(ScheduleError, match="between 0 and 1"):
        for_share("m", GEOMETRY, 1.0)


def test_the_rate_rises_in_a_line_and_falls_in_a_cosine():
    assert rate_factor(0.05, 0.1) == pytest.approx(0.5)
    assert rate_factor(0.1, 0.1) == 1.0
    assert rate_factor(0.55, 0.1) == pytest.approx(0.5)
    assert rate_factor(0.0, 0.1) > 0
