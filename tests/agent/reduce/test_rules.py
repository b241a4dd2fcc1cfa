"""What must hold for every method on every family that is understood: the reduced model as a whole."""

import copy

import pytest
import torch
import torch.nn.functional as functional

from tailfleet_reduce import METHODS, TokenState, apply, dissect, method_for
from tailfleet_reduce.queries import untrained
from tailfleet_schema.schedule import AFTER, PLACEMENT, SELECTING, Schedule, smallest_reachable

IMAGES = torch.randn(3, 3, 40, 40, generator=torch.Generator().manual_seed(5))
HALF = hasattr(functional, "scaled_dot_product_attention")

# Where tokens are dropped, and where all come back: after one reduction, after two, and dropped again behind it.
RESTORING = [((0, 7, 0, 0), 3), ((3, 6, 0, 0), 2), ((3, 0, 0, 5), 2), ((4, 0, 6, 5), 3)]


def schedule_for(model, method, drops, restore_before=None, parameters=None):
    """``drops`` tokens fewer after each block."""
    geometry = dissect(model).geometry()
    keep, tokens = [], geometry.tokens
    for block, drop in enumerate(drops):
        tokens = (geometry.tokens if block == restore_before else tokens) - drop
        keep.append(tokens)
    return Schedule(method, "small", geometry.tokens, geometry.prefix, keep, restore_before, parameters or {})


@pytest.fixture
def folded(queries_for):
    return lambda model: {block: query.sum(0) for block, query in queries_for(model).items()}


@pytest.fixture
def reduced(folded):
    """The reduced model of a schedule, or of what makes one; with queries for Cropr."""

    def make(model, method, drops, *further):
        return apply(model, schedule_for(model, method, drops, *further), queries=folded(model))

    return make


def run(model, images=IMAGES):
    with torch.no_grad():
        return model(images)


def check_logits(slow, queries, model, schedule, images=IMAGES[:1]):
    """The reduced model in double precision computes what is written out in the slow one."""
    expected = slow.reduced_logits(copy.deepcopy(model), schedule, images, queries)
    double = apply(copy.deepcopy(model).double(), schedule, queries={b: q.sum(0) for b, q in queries.items()})
    # Queries are in single precision, and timm rounds the sines of rotary places to it.
    rounded = schedule.method == "cropr" or getattr(model, "rope", None) is not None
    assert torch.allclose(run(double, images.double()), expected, atol=2e-6 if rounded else 1e-9)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_reduced_model_computes_the_formulas(slow, queries_for, family_model, method):
    schedule = schedule_for(family_model, method, (3, 0, 6, 2), None, {"similar": 2} if method == "zero-tprune" else {})
    check_logits(slow, queries_for(family_model), family_model, schedule)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_model_that_reduces_in_one_block_alone_computes_the_formulas(slow, queries_for, build_family, method):
    model = build_family("deit3")
    for drops in ((7, 0, 0, 0), (0, 0, 0, 7)):
        check_logits(slow, queries_for(model), model, schedule_for(model, method, drops))


@pytest.mark.parametrize(("drops", "restore_before"), RESTORING)
@pytest.mark.parametrize("method", sorted(SELECTING))
@pytest.mark.parametrize("family", ["vit", "no_class_token", "registers"])
def test_dropped_tokens_come_back_in_their_places_as_they_last_were(
    slow, queries_for, build_family, family, method, drops, restore_before
):
    model = build_family(family)
    check_logits(slow, queries_for(model), model, schedule_for(model, method, drops, restore_before))


@pytest.mark.parametrize("method", sorted(SELECTING))
def test_tokens_that_come_back_leave_in_the_images_order(reduced, build_family, method):
    """No block changes anything here: what comes back is what was embedded."""
    model = build_family("registers")
    for block in model.blocks:
        for part in (block.attn.proj, block.mlp.fc2):
            torch.nn.init.zeros_(part.weight)
            torch.nn.init.zeros_(part.bias)
    restored = reduced(model, method, (5, 4, 6, 0), 3)
    with torch.no_grad():
        assert torch.equal(restored.forward_tokens(IMAGES), dissect(model).embed(IMAGES))


def test_tokens_may_come_back_where_none_are_missing(reduced, build_family):
    model = build_family("vit")
    one, other = reduced(model, "topk", (0, 0, 0, 7), 2), reduced(model, "topk", (0, 0, 0, 7))
    assert torch.equal(run(one), run(other))


@pytest.mark.parametrize("proportional", [True, False])
@pytest.mark.parametrize("family", ["vit", "no_class_token", "registers"])
def test_attention_follows_sizes_after_merging_unless_the_schedule_says_no(
    slow, queries_for, build_family, family, proportional
):
    model = build_family(family)
    drops, parameters = (6, 4, 0, 3), {"proportional": proportional}
    check_logits(slow, queries_for(model), model, schedule_for(model, "tome", drops, None, parameters))


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"tome"}))
def test_attention_follows_no_sizes_of_other_methods(reduced, build_family, method):
    model = build_family("vit")
    with torch.no_grad():
        made = reduced(model, method, (3, 0, 0, 0)).method
        anatomy = dissect(model)
        state = anatomy.state(made)
        anatomy.blocks[0].reduce(torch.randn(2, 26, 24), made, 20, state)
    assert state.size_bias(torch.float32) is None


def test_evits_fused_token_meets_the_projections_bias_once(slow, queries_for, build_family):
    """Its weights do not sum to one, so a bias that was weighed with it would show."""
    model = build_family("deit3")
    for block in model.blocks:
        torch.nn.init.normal_(block.attn.proj.bias, mean=2.0, std=1.0)
    check_logits(slow, queries_for(model), model, schedule_for(model, "evit", (5, 5, 0, 0)))


@pytest.mark.parametrize("settings", [{"similar": 0}, {"similar": 3}, {"uniform": True}, {"similar": 100}], ids=str)
def test_zero_tprunes_parameters_reach_it(slow, queries_for, build_family, settings):
    model = build_family("vit")
    check_logits(slow, queries_for(model), model, schedule_for(model, "zero-tprune", (0, 9, 0, 4), None, settings))


def test_randoms_seed_reaches_it(slow, queries_for, build_family):
    model = build_family("vit")
    for seed in (0, 9):
        check_logits(slow, queries_for(model), model, schedule_for(model, "random", (0, 9, 0, 4), None, {"seed": seed}))


@pytest.mark.parametrize("method", [*sorted(METHODS), "dense"])
def test_nothing_to_reduce_is_the_untouched_model(reduced, family_model, method):
    got = run(reduced(family_model, method, (0, 0, 0, 0), 2 if method in SELECTING else None))
    assert (got - run(family_model)).abs().max() <= 1e-5


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_model_itself_stays_as_it_was(reduced, family_model, method):
    before, state = run(family_model), {k: v.clone() for k, v in family_model.state_dict().items()}
    family_model.train()
    family_model.blocks[1].eval()
    modes = [module.training for module in family_model.modules()]
    under = reduced(family_model, method, (0, 5, 0, 0))
    assert under.training
    assert [module.training for module in family_model.modules()] == modes
    run(under.eval())
    assert torch.equal(run(family_model), before)
    assert family_model.state_dict().keys() == state.keys()
    assert all(torch.equal(state[name], value) for name, value in family_model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in family_model.modules())
    assert next(under.parameters()) is next(family_model.parameters())  # shared, not copied


def seen_tokens(model, seen):
    """Notes how many tokens enter each block, each MLP, and the norm behind all blocks."""
    notes = [(block.norm1, "entering") for block in model.blocks] + [(block.mlp, "mlp") for block in model.blocks]
    for module, name in [*notes, (model.norm, "leaving")]:
        module.register_forward_pre_hook(lambda _, inputs, name=name: seen[name].append(inputs[0].shape[1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_block_leaves_exactly_what_the_schedule_says(reduced, family_model, method, dtype):
    if dtype == torch.float16 and not HALF:
        pytest.skip("torch {} has no half precision on a CPU".format(torch.__version__))
    restored = (None, 2) if method in SELECTING and dtype == torch.float32 else (None,)
    for restore_before in restored:
        model = copy.deepcopy(family_model).to(dtype)
        under = reduced(model, method, (2, 0, 8, 5), restore_before)
        schedule, seen = under.schedule, {"entering": [], "mlp": [], "leaving": []}
        seen_tokens(model, seen)
        logits = run(under, IMAGES[:2].to(dtype))
        assert seen["entering"] == schedule.entering
        assert seen["mlp"] == (schedule.entering if PLACEMENT[method] == AFTER else schedule.keep)
        assert seen["leaving"][0] == schedule.keep[-1]
        assert logits.dtype == dtype
        assert torch.isfinite(logits).all()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_each_method_reaches_the_fewest_tokens_it_declares(reduced, family_model, method):
    geometry = dissect(family_model).geometry()
    drops, tokens = [], geometry.tokens
    for _ in range(geometry.depth):
        least = smallest_reachable(method, tokens, geometry.prefix)
        drops.append(tokens - least)
        tokens = least
    under = reduced(family_model, method, drops)
    with torch.no_grad():
        assert under.forward_tokens(IMAGES).shape == (3, tokens, 24)
    assert torch.isfinite(run(under)).all()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_an_images_logits_do_not_depend_on_its_batch_mates(reduced, family_model, method):
    images = IMAGES.clone()
    images[1] *= 30  # whatever was taken over the batch would be this image's
    under = reduced(family_model, method, (0, 7, 4, 0), 3 if method in SELECTING else None)
    together = run(under, images)
    for image in range(len(images)):
        assert (run(under, images[image : image + 1]) - together[image]).abs().max() <= 1e-5


@pytest.mark.parametrize("method", sorted(METHODS))
def test_prefix_tokens_leave_first_and_untouched_by_the_reduction(folded, family_model, method):
    anatomy = dissect(family_model)
    made = method_for(method, anatomy, queries=folded(family_model))
    with torch.no_grad():
        x = anatomy.embed(IMAGES)
        block = anatomy.blocks[1]
        for kept in (x.shape[1] - 1, smallest_reachable(method, x.shape[1], anatomy.prefix)):
            whole = block.whole(x)
            left = block.reduce(x, made, kept)
            assert left.shape[1] == kept
            assert torch.allclose(left[:, : anatomy.prefix], whole[:, : anatomy.prefix], atol=1e-5)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_both_halves_of_a_block_that_reduces_are_the_block(folded, family_model, method):
    """The attention half alone, as it is timed: it leaves as many tokens, and those that the whole block reduces to."""
    anatomy = dissect(family_model)
    made = method_for(method, anatomy, queries=folded(family_model))
    with torch.no_grad():
        x = anatomy.embed(IMAGES)
        half = anatomy.blocks[1].attention_reduce(x, made, 18)
        assert half.shape == (3, 18, 24)
        if made.placement != AFTER:
            assert torch.allclose(anatomy.blocks[1].mlp(half), anatomy.blocks[1].reduce(x, made, 18), atol=1e-5)


def test_the_halves_of_all_blocks_are_the_untouched_model(family_model):
    anatomy = dissect(family_model)
    with torch.no_grad():
        x = anatomy.embed(IMAGES)
        for block in anatomy.blocks:
            x = block.mlp(block.attention(x))
        assert (anatomy.head(x) - family_model(IMAGES)).abs().max() <= 1e-5


@pytest.fixture
def counted(monkeypatch):
    """Counts the computations of attention: each made explicit in full, and each fused, with its queries and mask."""
    calls = {"explicit": 0, "fused": []}
    softmax = torch.Tensor.softmax

    def count_softmax(self, *args, **kwargs):
        calls["explicit"] += self.dim() == 4 and self.shape[-1] == self.shape[-2]
        return softmax(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "softmax", count_softmax)
    if HALF:
        fused = functional.scaled_dot_product_attention

        def count_fused(q, k, v, attn_mask=None, **kwargs):
            calls["fused"].append((q.shape[2], k.shape[2], None if attn_mask is None else tuple(attn_mask.shape)))
            return fused(q, k, v, attn_mask=attn_mask, **kwargs)

        monkeypatch.setattr(functional, "scaled_dot_product_attention", count_fused)
    return calls


@pytest.mark.parametrize("method", sorted(METHODS))
def test_only_reducing_blocks_that_need_it_pay_for_explicit_attention(reduced, family_model, counted, method):
    if not HALF:
        pytest.skip("torch {} has no fused attention to count".format(torch.__version__))
    run(family_model)
    assert counted["explicit"] == 0
    dense = len(counted["fused"])  # one more than blocks where attention pools
    biased = any(mask is not None for _, _, mask in counted["fused"])
    under = reduced(family_model, method, (0, 3, 3, 0))
    needed = method in ("pomt", "zero-tprune") or (method in ("topk", "evit") and family_model.cls_token is None)
    counted["fused"].clear()
    run(under)
    assert counted["explicit"] == (2 if needed else 0)
    assert len(counted["fused"]) == dense - counted["explicit"]
    if biased:
        return  # relative positions are a mask of each pair, whatever is reduced
    merged = [keys for _, keys, mask in counted["fused"] if mask is not None]
    assert merged == ([under.schedule.entering[2], under.schedule.entering[3]] if method == "tome" else [])
    # A mask of each pair, or of each head, would leave the fast path.
    assert all(mask == (3, 1, 1, keys) for _, keys, mask in counted["fused"] if mask is not None)


@pytest.mark.parametrize("method", ["random", "topk"])
def test_tokens_that_will_not_be_kept_ask_no_queries(reduced, build_family, counted, method):
    if not HALF:
        pytest.skip("torch {} has no fused attention to count".format(torch.__version__))
    run(reduced(build_family("vit"), method, (0, 7, 4, 0)))
    assert counted["fused"] == [(26, 26, None), (19, 26, None), (15, 19, None), (15, 15, None)]


@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("topk", [1, 0, 0, 1]),
        ("evit", [1, 0, 0, 1]),
        ("pomt", [1, 0, 0, 1]),
        ("zero-tprune", [1, 0, 0, 1]),
        ("tome", [1, 0, 0, 0]),  # attention follows sizes in the last block
        ("cropr", [1, 1, 1, 1]),  # looks at what a block leaves alone
    ],
)
def test_blocks_are_timms_own_wherever_they_do_what_is_wanted(reduced, build_family, monkeypatch, method, own):
    model = build_family("vit")
    calls = [0] * len(model.blocks)
    for number, block in enumerate(model.blocks):

        def count(x, number=number, forward=block.forward):
            calls[number] += 1
            return forward(x)

        monkeypatch.setattr(block, "forward", count)
    run(reduced(model, method, (0, 7, 4, 0)))
    assert calls == own


def test_attention_follows_sizes_of_a_state_that_has_them(build_family):
    x, sizes = torch.randn(2, 9, 24), torch.tensor([[1.0] * 8 + [5.0]] * 2)
    block = dissect(build_family("vit")).blocks[0]
    with torch.no_grad():
        weighed = block.attention(x, TokenState.sized(sizes))
        repeated = block.attention(torch.cat([x, x[:, 8:].expand(-1, 4, -1)], 1))
    assert torch.allclose(weighed, repeated[:, :9], atol=1e-5)


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("family", ["vit", "no_class_token", "registers", "siglip"])
def test_no_tensor_is_read_back_to_the_host(reduced, build_family, monkeypatch, family, method):
    under = reduced(build_family(family), method, (0, 7, 4, 0), 3 if method in SELECTING else None)

    def refuse(*args, **kwargs):
        raise AssertionError("a tensor was read back to the host")

    names = ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "nonzero", "unique")
    for name in names:
        monkeypatch.setattr(torch.Tensor, name, refuse)
    run(under)


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("family", ["no_class_token", "registers"])
def test_shapes_hang_on_no_number_and_tensors_are_made_where_the_model_is(reduced, build_family, family, method):
    """On a device that has shapes alone: what reads a value, or makes its tensors elsewhere, fails there."""
    if not HALF:
        pytest.skip("torch {} cannot run these models on its meta device".format(torch.__version__))
    model = build_family(family)
    drops, restore_before = (2, 7, 4, 0), 3 if method in SELECTING else None
    with torch.no_grad():
        expected = reduced(model, method, drops, restore_before).forward_tokens(IMAGES).shape
        meta = reduced(copy.deepcopy(model).to("meta"), method, drops, restore_before)
        assert meta.forward_tokens(IMAGES.to("meta")).shape == expected


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_parameter_learns_through_the_reduction(reduced, build_family, method):
    """Schedules are also trained with: no gradient is lost or spoilt on the way."""
    model = build_family("vit").train()
    reduced(model, method, (0, 7, 4, 0), 3 if method in SELECTING else None)(IMAGES).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("method", sorted(METHODS))
def test_an_autocast_around_the_model_changes_no_choice(build_family, method):
    if not hasattr(torch, "autocast") or not HALF:
        pytest.skip("torch {} knows no autocast of a CPU's half precision".format(torch.__version__))
    model = build_family("vit")
    anatomy = dissect(model)
    ready = method_for(method, anatomy, queries=untrained(anatomy.depth, 24))
    chosen = []
    plan = ready.plan

    def planned(evidence, kept):
        assert not torch.is_autocast_enabled("cpu")
        reduction = plan(evidence, kept)
        chosen.append(reduction.tokens(torch.arange(26.0).reshape(1, 26, 1).expand(3, -1, -1)))
        return reduction

    ready.plan = planned
    with torch.no_grad():
        x = anatomy.embed(IMAGES)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            anatomy.blocks[1].reduce(x, ready, 20)
    assert len(chosen) == 1
