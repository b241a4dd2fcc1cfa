"""Families whose attention knows where its tokens lie, real timm names of every family, and those that are refused.

That every method computes its formulas on them stands in ``test_rules``, with all other families.
"""

import copy
import os

import family_table
import pytest
import torch

from tailfleet_reduce import METHODS, ModelRefused, apply, dissect
from tailfleet_reduce.queries import attach, untrained
from tailfleet_schema.errors import InputError
from tailfleet_schema.schedule import SELECTING, Schedule

IMAGES = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(5))

ROTARY = ["dinov3", "eva02", "eva02_tiny", "perception_encoder", "rotary_mixed", "rotary_registers"]
BIASED = ["beit", "beit_both", "beit_shared"]
PLACES = ROTARY + BIASED


def reduced(model, method, drops, restore_before=None):
    """``model`` with ``drops`` tokens fewer after each block, Cropr's queries with it."""
    geometry = dissect(model).geometry()
    attach(model, untrained(geometry.depth, geometry.dim))
    keep, tokens = [], geometry.tokens
    for number, drop in enumerate(drops):
        tokens = (geometry.tokens if number == restore_before else tokens) - drop
        keep.append(tokens)
    return apply(model, Schedule(method, "small", geometry.tokens, geometry.prefix, keep, restore_before))


def run(model, images=IMAGES):
    with torch.no_grad():
        return model(images)


def check_logits(slow, model, method, drops, restore_before=None):
    """Against the formulas in double precision; timm rounds the sines of rotary places, and we queries, to single."""
    double = model.double()
    under = reduced(double, method, drops, restore_before)
    queries = {block: query[None] for block, query in untrained(len(model.blocks), model.embed_dim).items()}
    expected = slow.reduced_logits(copy.deepcopy(model), under.schedule, IMAGES, queries)
    exact = method != "cropr" and model.family not in ROTARY
    assert torch.allclose(run(under, IMAGES.double()), expected, atol=1e-9 if exact else 2e-6)


@pytest.mark.parametrize("method", sorted(SELECTING))
@pytest.mark.parametrize("family", PLACES)
def test_places_are_the_images_again_where_tokens_come_back(slow, build_family, family, method):
    check_logits(slow, build_family(family), method, (4, 5, 0, 2), restore_before=2)


@pytest.mark.parametrize("family", PLACES)
def test_the_first_tokens_lie_in_the_first_places(slow, build_family, family):
    """As timing programs ask for them: fewer than all, and no state."""
    model = build_family(family).double()
    anatomy = dissect(model)
    with torch.no_grad():
        x = anatomy.embed(IMAGES[:1].double())[:, :14]
        for number, block in enumerate(anatomy.blocks):
            expected = x + slow.attended(model, number, x, None, list(range(14)))[0]
            assert torch.allclose(block.attention(x), expected, atol=2e-6)
            assert torch.allclose(block.whole(x), block.mlp(block.attention(x)), atol=1e-9)
            x = expected


@pytest.mark.parametrize("family", PLACES)
def test_drawn_tokens_keep_their_places(slow, build_family, family):
    model = build_family(family).double()
    anatomy = dissect(model)
    chosen = torch.tensor([[9, 17, 11]])
    with torch.no_grad():
        x, state = anatomy.drawn(anatomy.embed(IMAGES[:1].double()), chosen)
        places = list(range(anatomy.prefix)) + [at + anatomy.prefix for at in (9, 17, 11)]
        assert x.shape[1] == len(places)
        expected = x + slow.attended(model, 0, x, None, places)[0]
        assert torch.allclose(anatomy.blocks[0].attention(x, state), expected, atol=2e-6)


@pytest.mark.parametrize("family", ROTARY)
def test_tokens_from_nowhere_are_not_turned_and_prefix_tokens_neither(build_family, family):
    anatomy = dissect(build_family(family))
    state, q = anatomy.state(), torch.randn(1, 3, anatomy.prefix + 2, 8)
    state.positions = torch.tensor([[*range(anatomy.prefix), anatomy.tokens, anatomy.tokens - 1]])
    turned, _ = anatomy.blocks[0].places.rotated(q, q, state)
    assert torch.equal(turned[:, :, :-1], q[:, :, :-1])
    assert not torch.allclose(turned[:, :, -1], q[:, :, -1], atol=1e-2)


@pytest.mark.parametrize("family", BIASED)
def test_no_bias_lies_between_a_token_and_one_from_nowhere(build_family, family):
    anatomy = dissect(build_family(family))
    state = anatomy.state()
    state.positions = torch.tensor([[0, 5, anatomy.tokens]])
    with torch.no_grad():
        bias = anatomy.blocks[0].places.bias(torch.zeros(1, 3, 24), state)
    assert bias.shape == (1, 3, 3, 3)
    assert not bias[:, :, 2].any()
    assert not bias[:, :, :, 2].any()
    assert bias[:, :, :2, :2].all()


@pytest.mark.parametrize("family", PLACES)
def test_blocks_that_reduce_nothing_are_timms_own(build_family, family, monkeypatch):
    """Rotated ones always; biased ones as long as all tokens are there, for timm's knows no other places."""
    model, ran = build_family(family), []
    kind = type(model.blocks[0])
    own = kind.forward

    def counted(self, *args, **kwargs):
        ran.append(self)
        return own(self, *args, **kwargs)

    monkeypatch.setattr(kind, "forward", counted)
    run(reduced(model, "topk", (0, 5, 0, 0)))
    untouched = [0] if family in BIASED else [0, 2, 3]
    assert ran == [model.blocks[number] for number in untouched]


@pytest.mark.parametrize("family", ROTARY)
def test_a_rotary_table_is_fetched_once_a_pass_and_not_at_all_where_it_is_fixed(build_family, family, monkeypatch):
    model, fetched = build_family(family), []
    under = reduced(model, "topk", (2, 2, 2, 2))
    own = model.rope.get_embed

    def counted(*args, **kwargs):
        fetched.append(1)
        return own(*args, **kwargs)

    monkeypatch.setattr(model.rope, "get_embed", counted)
    run(under)
    assert len(fetched) == (0 if family == "dinov3" else 1)


@pytest.mark.parametrize("family", ROTARY)
def test_a_rotary_table_is_gathered_once_a_reduction(build_family, family, monkeypatch):
    under = reduced(build_family(family), "topk", (0, 2, 0, 2))
    index, seen = torch.Tensor.__getitem__, []

    def counted(self, key):
        keys = key if isinstance(key, tuple) else (key,)
        seen.extend(1 for one in keys if isinstance(one, torch.Tensor))
        return index(self, key)

    monkeypatch.setattr(torch.Tensor, "__getitem__", counted)
    run(under)
    # Two blocks after the first reduction: one gathering for both, or one for each where each has its own table.
    assert len(seen) == {"rotary_mixed": 2}.get(family, 1)


def test_a_learned_rotary_table_is_trained(build_family):
    model = build_family("rotary_mixed")
    under = reduced(model, "topk", (0, 5, 0, 0)).train()
    under(IMAGES).sum().backward()
    assert (model.rope.freqs.grad.abs().sum((0, 2, 3)) > 0).all()  # of every block


def test_images_of_another_shape_are_refused_though_the_model_would_take_them(build_family):
    under = reduced(build_family("dinov3"), "topk", (0, 5, 0, 0))
    with pytest.raises(InputError, match="made for images of 40 × 40, not of 8 × 200"):
        run(under, torch.zeros(1, 3, 8, 200))


@pytest.mark.parametrize("family", ["vit", "eva02", "eva02_tiny", "dinov3", "beit"])
def test_the_width_of_an_mlp_is_what_its_arithmetic_is(build_family, family):
    """2·C·M multiply-adds a token, also where a gate makes three matrices of two."""
    model = build_family(family)
    try:
        from torch.utils.flop_counter import FlopCounterMode
    except ImportError:
        pytest.skip("this torch counts no operations")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.blocks[0].mlp(torch.zeros(1, 10, 24))
    assert counter.get_total_flops() == 2 * (10 * 2 * 24 * dissect(model).geometry().mlp_dim)


def test_attention_that_knows_no_places_is_told_apart(build_family):
    assert not dissect(build_family("vit")).positional
    assert not dissect(build_family("deit3")).positional
    assert not dissect(build_family("eva")).positional
    for family in PLACES:
        assert dissect(build_family(family)).positional


def real(name, settings):
    try:
        return family_table.build(name, settings)
    except LookupError as lacking:
        pytest.skip(str(lacking))


@pytest.mark.parametrize(
    ("family", "name", "settings"), family_table.FAMILIES, ids=[x[1] for x in family_table.FAMILIES]
)
def test_the_readmes_table_is_true(family, name, settings):
    """Every method on every family: identity, counts, prefix, batch-mates."""
    model = real(name, settings)
    assert {method: family_table.cell(model, method) for method in METHODS} == dict.fromkeys(METHODS, "works")


def test_the_readme_has_the_families_that_are_tested():
    path = os.path.join(os.path.dirname(__file__), "..", "..", "..", "README.md")
    if not os.path.exists(path):
        pytest.skip("the README is not here: these tests run without the repository")
    with open(path, encoding="utf-8") as file:
        rows = file.read().split("<!-- families -->")[1].split("<!-- /families -->")[0].splitlines()
    told = [row.split(" | ") for row in rows if row.startswith("| ")][2:]
    known = [*family_table.FAMILIES, *family_table.REFUSED]
    assert [(row[0][2:], row[1]) for row in told] == [(family, "`{}`".format(name)) for family, name, _ in known]
    assert [row[2].split(":")[0] for row in told[: len(family_table.FAMILIES)]] == ["works"] * len(
        family_table.FAMILIES
    )
    assert all(row[2].startswith("refused: ") for row in told[len(family_table.FAMILIES) :])


@pytest.mark.parametrize(
    ("name", "settings", "why"),
    [
        (name, settings, why)
        for (_, name, settings), why in zip(
            family_table.REFUSED,
            [
                "eva.Eva cannot be reduced: its blocks are EvaBlockPostNorm",
                "eva.Eva cannot be reduced: groups of its heads share their keys",
                "VisionTransformer cannot be reduced: its blocks are Parallel",
                "VisionTransformer cannot be reduced: its blocks are ParallelScalingBlock",
                "VisionTransformer cannot be reduced: its blocks are ResPostBlock",
                "VisionTransformer cannot be reduced: its attention is DiffAttention",
                "VisionTransformer cannot be reduced: its patch embedding is a HybridEmbed",
                "naflexvit.NaFlexVit cannot be reduced: it is none of timm's VisionTransformer,",
                "swin_transformer.SwinTransformer cannot be reduced: it is none of timm's VisionTransformer,",
            ],
        )
    ],
)
def test_what_is_not_understood_is_refused_by_name(name, settings, why, monkeypatch):
    model = real(name, settings)
    monkeypatch.setattr(torch.nn.Module, "__call__", lambda *_: pytest.fail("something ran"))
    with pytest.raises(ModelRefused) as refused:
        dissect(model)
    assert why in refused.value.sentence
    assert "plain pre-norm blocks" in refused.value.mend


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"use_rot_pos_emb": True, "rope_type": "mrope", "rope_mrope_section": (0, 2, 2)}, "RotaryEmbeddingMRope"),
        ({"patch_drop_rate": 0.1}, "has a part 'patch_drop'"),
        ({"use_post_norm": True}, "EvaBlockPostNorm"),
        ({"attn_type": "rope", "qkv_fused": False, "num_kv_heads": 1}, "groups of its heads share their keys"),
    ],
)
def test_settings_of_an_eva_that_are_not_understood_are_refused(settings, why):
    eva = pytest.importorskip("timm.models.eva", reason="this timm has no Eva")
    small = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3}
    try:
        model = eva.Eva(**dict(small, **settings))
    except TypeError as error:
        pytest.skip("this timm cannot build it: {}".format(error))
    with pytest.raises(ModelRefused, match=why):
        dissect(model)
