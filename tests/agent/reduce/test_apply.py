"""The reduced model as a whole: what must hold for every method on every family that is understood."""

import copy

import pytest
import torch
import torch.nn.functional as functional

from tailfleet_reduce import METHODS, TokenState, apply, dissect
from tailfleet_reduce.method import Evidence
from tailfleet_schema.errors import ScheduleError
from tailfleet_schema.schedule import Schedule, dense, smallest_reachable

IMAGES = torch.randn(3, 3, 40, 40, generator=torch.Generator().manual_seed(5))


def schedule_for(model, method, drops):
    """``drops`` tokens fewer after each block."""
    geometry = dissect(model).geometry()
    keep, tokens = [], geometry.tokens
    for drop in drops:
        tokens -= drop
        keep.append(tokens)
    return Schedule(method, "small", geometry.tokens, geometry.prefix, keep)


def run(model, images=IMAGES):
    with torch.no_grad():
        return model(images)


@pytest.mark.parametrize("drops", [(0, 7, 0, 0), (3, 0, 6, 2)], ids=["one block", "three blocks"])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_reduced_model_computes_the_formulas(slow, family_model, method, drops):
    schedule = schedule_for(family_model, method, drops)
    expected = slow.reduced_logits(copy.deepcopy(family_model), schedule, IMAGES)
    with torch.no_grad():
        got = apply(family_model.double(), schedule)(IMAGES.double())
    assert torch.allclose(got, expected, atol=1e-9)


@pytest.mark.parametrize("method", [*sorted(METHODS), "dense"])
def test_nothing_to_reduce_is_the_untouched_model(family_model, method):
    geometry = dissect(family_model).geometry()
    schedule = Schedule(method, "small", geometry.tokens, geometry.prefix, [geometry.tokens] * geometry.depth)
    assert (run(apply(family_model, schedule)) - run(family_model)).abs().max() <= 1e-5


def test_the_halves_of_all_blocks_are_the_untouched_model(family_model):
    anatomy = dissect(family_model)
    with torch.no_grad():
        x = anatomy.embed(IMAGES)
        for block in anatomy.blocks:
            x = block.mlp(block.attention(x))
        assert (anatomy.head(x) - family_model(IMAGES)).abs().max() <= 1e-5


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_model_itself_stays_as_it_was(family_model, method):
    before, state = run(family_model), {k: v.clone() for k, v in family_model.state_dict().items()}
    reduced = apply(family_model, schedule_for(family_model, method, (0, 5, 0, 0)))
    run(reduced)
    assert torch.equal(run(family_model), before)
    assert all(torch.equal(state[name], value) for name, value in family_model.state_dict().items())
    assert next(reduced.parameters()) is next(family_model.parameters())  # shared, not copied


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_block_leaves_exactly_what_the_schedule_says(family_model, method, dtype):
    schedule = schedule_for(family_model, method, (2, 0, 8, 5))
    seen = []
    for block in family_model.blocks:
        block.mlp.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[1]))
    logits = run(apply(family_model.to(dtype), schedule), IMAGES.to(dtype))
    assert seen == schedule.keep
    assert logits.dtype == dtype
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_each_method_reaches_the_fewest_tokens_it_declares(family_model, method):
    geometry = dissect(family_model).geometry()
    keep, tokens = [], geometry.tokens
    for _ in range(geometry.depth):
        tokens = smallest_reachable(method, tokens, geometry.prefix)
        keep.append(tokens)
    reduced = apply(family_model, Schedule(method, "small", geometry.tokens, geometry.prefix, keep))
    assert torch.isfinite(run(reduced)).all()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_an_images_logits_do_not_depend_on_its_batch_mates(family_model, method):
    reduced = apply(family_model, schedule_for(family_model, method, (0, 7, 4, 0)))
    together = run(reduced)
    for image in range(len(IMAGES)):
        assert (run(reduced, IMAGES[image : image + 1]) - together[image]).abs().max() <= 1e-5


@pytest.mark.parametrize("method", sorted(METHODS))
def test_prefix_tokens_leave_first_and_untouched_by_the_reduction(family_model, method):
    anatomy = dissect(family_model)
    with torch.no_grad():
        x = anatomy.embed(IMAGES)
        block = anatomy.blocks[1]
        reduced = block.attention_reduce(x, METHODS[method], x.shape[1] - 6)
        whole = block.attention(x)
    assert torch.allclose(reduced[:, : anatomy.prefix], whole[:, : anatomy.prefix], atol=1e-5)


@pytest.fixture
def counted(monkeypatch):
    """Counts the computations of attention: whole S made explicit, and fused."""
    calls = {"explicit": 0, "fused": 0, "queries": []}
    rows = Evidence._rows

    def count_rows(self, q):
        calls["explicit"] += q.shape[2] == self.k.shape[2]
        return rows(self, q)

    monkeypatch.setattr(Evidence, "_rows", count_rows)
    if hasattr(functional, "scaled_dot_product_attention"):
        fused = functional.scaled_dot_product_attention

        def count_fused(*args, **kwargs):
            calls["fused"] += 1
            calls["queries"].append(args[0].shape[2])
            return fused(*args, **kwargs)

        monkeypatch.setattr(functional, "scaled_dot_product_attention", count_fused)
    return calls


@pytest.mark.parametrize(
    ("family", "method", "explicit"),
    [("vit", "topk", 0), ("vit", "tome", 0), ("vit", "pomt", 2), ("no_class_token", "topk", 2)],
)
def test_only_reducing_blocks_that_need_it_pay_for_explicit_attention(build_family, counted, family, method, explicit):
    model = build_family(family)
    reduced = apply(model, schedule_for(model, method, (0, 3, 3, 0)))
    run(reduced)
    assert counted["explicit"] == explicit
    if not hasattr(functional, "scaled_dot_product_attention"):
        pytest.skip("this torch has no fused attention to count")
    assert counted["fused"] == 4 - explicit


def test_tokens_that_will_not_be_kept_ask_no_queries(build_family, counted):
    if not hasattr(functional, "scaled_dot_product_attention"):
        pytest.skip("this torch has no fused attention to count")
    model = build_family("vit")
    run(apply(model, schedule_for(model, "topk", (0, 7, 4, 0))))
    assert counted["queries"] == [26, 19, 15, 15]


def test_attention_follows_sizes_after_merging_alone(build_family):
    x, sizes = torch.randn(2, 9, 24), torch.tensor([[1.0] * 8 + [5.0]] * 2)
    block = dissect(build_family("vit")).blocks[0]
    for method in METHODS.values():
        state = TokenState()
        with torch.no_grad():
            block.attention_reduce(torch.randn(2, 12, 24), method, 9, state)
            state.sizes = sizes
            weighed = block.attention(x, state)
            assert torch.allclose(weighed, block.attention(x)) == (method.name != "tome")


@pytest.mark.parametrize("method", sorted(METHODS))
def test_no_tensor_is_read_back_to_the_host(build_family, monkeypatch, method):
    model = build_family("vit")
    reduced = apply(model, schedule_for(model, method, (0, 7, 4, 0)))

    def refuse(*args, **kwargs):
        raise AssertionError("a tensor was read back to the host")

    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    run(reduced)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_reduced_model_exports_with_static_shapes(build_family, method):
    if not hasattr(torch, "export"):
        pytest.skip("this torch has no torch.export")
    model = build_family("vit")
    reduced = apply(model, schedule_for(model, method, (0, 7, 4, 0)))
    exported = torch.export.export(reduced, (IMAGES[:1],)).module()
    assert torch.allclose(run(exported, IMAGES[:1]), run(reduced, IMAGES[:1]), atol=1e-5)


def test_a_schedule_for_another_model_is_refused(build_family):
    model = build_family("vit")
    schedule = schedule_for(model, "topk", (0, 7, 0, 0))
    with pytest.raises(ScheduleError, match="made for model 'small', not for 'other'"):
        apply(model, schedule, name="other")
    apply(model, schedule, name="small")


@pytest.mark.parametrize(
    ("tokens", "prefix", "depth", "sentence"),
    [(26, 1, 3, "3 blocks"), (25, 1, 4, "expects 25 tokens"), (26, 2, 4, "prefix")],
)
def test_a_schedule_of_another_shape_is_refused(build_family, tokens, prefix, depth, sentence):
    with pytest.raises(ScheduleError, match=sentence):
        apply(build_family("vit"), Schedule("topk", "small", tokens, prefix, [tokens - 1] * depth))


def test_parameters_that_a_method_does_not_have_are_refused(build_family):
    model = build_family("vit")
    with pytest.raises(ScheduleError, match="no parameter 'alpha'"):
        apply(model, Schedule("topk", "small", 26, 1, [20] * 4, parameters={"alpha": 1}))


def test_images_that_become_another_number_of_tokens_are_refused(build_family):
    model = build_family("vit")
    reduced = apply(model, dense("small", dissect(model).geometry()))
    model.patch_embed.img_size = (32, 32)
    model.pos_embed = torch.nn.Parameter(model.pos_embed[:, :17])
    with pytest.raises(ScheduleError, match="expects 26 tokens, these images become 17"):
        run(reduced, IMAGES[:, :, :32, :32])
