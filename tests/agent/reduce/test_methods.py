"""Each method against its formula, written out token by token, on the tensors of one block."""

import pytest
import torch
import torch.nn.functional as functional

from tailfleet_reduce import METHODS
from tailfleet_reduce.cropr import Cropr
from tailfleet_reduce.evit import EViT
from tailfleet_reduce.method import Evidence
from tailfleet_reduce.pomt import Pomt
from tailfleet_reduce.random import Random
from tailfleet_reduce.tome import ToMe
from tailfleet_reduce.topk import TopK
from tailfleet_reduce.zero_tprune import ZeroTPrune
from tailfleet_schema.schedule import PLACEMENT, SELECTING, smallest_reachable

# heads, tokens, width of a head, prefix tokens, whether the first is a class token
SHAPES = [
    (1, 6, 4, 1, True),
    (3, 13, 8, 1, True),
    (2, 14, 5, 2, True),
    (3, 12, 4, 0, False),
    (2, 15, 4, 3, False),
    (2, 17, 4, 4, True),
    (2, 16, 4, 5, True),
]
DIM = 6
PLACES = 40
BLOCK, DEPTH = 4, 12

HALF = hasattr(functional, "scaled_dot_product_attention")
NO_HALF = "torch {} multiplies half-precision matrices on a CPU in half precision, or not at all".format(
    torch.__version__
)


def queries():
    return torch.randn(3, DIM, generator=torch.Generator().manual_seed(7))


MAKE = {
    "random": lambda: Random(PLACES, seed=3),
    "topk": TopK,
    "evit": EViT,
    "pomt": Pomt,
    "tome": ToMe,
    "zero-tprune": lambda: ZeroTPrune(similar=3),
    "cropr": lambda: Cropr({BLOCK: queries().sum(0)}),
}


def random_evidence(shape, dtype=torch.float32, batch=2, sized=False, seed=0):
    """What a block shows; with ``sized`` as after a reduction: tokens stand for several, and lie anywhere."""
    heads, tokens, width, prefix, has_class_token = shape
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(batch, heads, tokens, width, generator=generator).to(dtype) for _ in range(3))
    x = torch.randn(batch, tokens, DIM, generator=generator).to(dtype)
    sizes = places = None
    if sized:
        sizes = torch.randint(1, 9, (batch, tokens), generator=generator).float()
        patches = torch.stack([torch.randperm(PLACES - prefix, generator=generator) for _ in range(batch)]) + prefix
        places = torch.cat([torch.arange(prefix).expand(batch, -1), patches], 1)[:, :tokens]
    return Evidence(q, k, v, width**-0.5, None, prefix, has_class_token, sizes, places, x, BLOCK, DEPTH)


def counts(method, tokens, prefix):
    least = smallest_reachable(method, tokens, prefix)
    return sorted({least, (least + tokens) // 2, tokens - 1})


def transcribe(slow, method, evidence, image, kept):
    """The transcription's answer for one image, in double precision on the very numbers of ``evidence``."""
    q, k, v = (tensor[image].double().tolist() for tensor in (evidence.q, evidence.k, evidence.v))
    further = {}
    if method.name == "random":
        further["rank"] = method.rank.tolist()
    elif method.name == "zero-tprune":
        further = {"similar": method.similar, "uniform": method.uniform}
    elif method.name == "cropr":
        further["queries"] = {BLOCK: queries().double().tolist()}
    tokens = evidence.k.shape[2]
    shown = slow.seen(
        slow.attention_rows(q, k, evidence.scale),
        k,
        v,
        evidence.x[image].double().tolist(),
        None if evidence.sizes is None else evidence.sizes[image].tolist(),
        evidence.prefix,
        evidence.has_class_token,
        places=list(range(tokens)) if evidence.positions is None else evidence.positions[image].tolist(),
        block=evidence.block,
        depth=evidence.depth,
    )
    out, sizes, origin = slow.methods[method.name](shown, kept, **further)
    return out, sizes, [PLACES if j is None else shown.places[j] for j in origin]


def check(slow, method, evidence, kept, **tolerance):
    """One reduction is what the transcription says: tokens, sizes, places, prefix tokens first and as they were."""
    reduction, x, prefix = method.plan(evidence, kept), evidence.x, evidence.prefix
    tokens, sizes = reduction.tokens(x), reduction.sizes()
    arrived = evidence.positions
    if arrived is None:
        arrived = torch.arange(x.shape[1]).expand(len(x), -1)
    places = reduction.positions(arrived, PLACES)
    assert tokens.shape == (len(x), kept, DIM)
    assert tokens.dtype == x.dtype
    assert torch.equal(tokens[:, :prefix], x[:, :prefix])
    for image in range(len(x)):
        expected, expected_sizes, origin = transcribe(slow, method, evidence, image, kept)
        assert places[image].tolist() == origin
        assert torch.allclose(tokens[image].double(), torch.tensor(expected, dtype=torch.float64), **tolerance)
        if expected_sizes is None:
            assert sizes is None
        else:
            assert sizes.dtype == torch.float32
            assert torch.allclose(sizes[image], torch.tensor(expected_sizes))
    selected = reduction.selected()
    assert (selected is None) == (method.name not in SELECTING)
    assert selected is None or torch.equal(tokens, torch.stack([x[i][selected[i]] for i in range(len(x))]))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sized", [False, True], ids=["fresh", "reduced before"])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_method_computes_its_formula(slow, method, shape, sized):
    evidence = random_evidence(shape, sized=sized)
    for kept in counts(method, shape[1], shape[3]):
        check(slow, MAKE[method](), evidence, kept, atol=1e-5)


@pytest.mark.skipif(not HALF, reason=NO_HALF)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sized", [False, True], ids=["fresh", "reduced before"])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_scores_of_half_precision_tensors_are_computed_in_single(slow, method, dtype, sized):
    """Many tokens lie close together; still those leave that the formula says for the very numbers given."""
    shape = (2, 40, 8, 2, True)
    resolution = 2.0**-11 if dtype == torch.float16 else 2.0**-8
    if sized:
        shape = (2, 38, 8, 1, method != "topk")  # Top-K also by all rows
    evidence = random_evidence(shape, dtype, sized=sized)
    for kept in counts(method, shape[1], shape[3])[1:]:
        check(slow, MAKE[method](), evidence, kept, rtol=4 * resolution, atol=8 * resolution)


@pytest.mark.skipif(not HALF, reason=NO_HALF)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", sorted(METHODS))
def test_many_large_tokens_do_not_overflow_in_one(method, dtype):
    shown = random_evidence((2, 197, 4, 1, True), dtype, batch=1)
    x = torch.full((1, 197, DIM), 1000.0).to(dtype)
    sizes = torch.full((1, 197), 300.0)
    evidence = Evidence(shown.q, shown.k, shown.v, 0.5, None, 1, True, sizes, None, x, BLOCK, DEPTH)
    kept = smallest_reachable(method, 197, 1)
    reduction = (MAKE[method] if method != "random" else lambda: Random(197))().plan(evidence, kept)
    tokens = reduction.tokens(x).float()
    assert torch.isfinite(tokens).all()
    if reduction.normalised:
        assert torch.allclose(tokens, torch.full((1, kept, DIM), 1000.0), rtol=0.01)
    if reduction.sizes() is not None:
        assert reduction.sizes().sum() == 197 * 300


@pytest.mark.parametrize("method", sorted(METHODS))
def test_an_image_does_not_depend_on_its_batch_mates(method):
    # One image whose numbers dwarf all others': nothing may be taken over the batch.
    evidence = random_evidence((3, 30, 8, 1, True), batch=4, sized=True)
    for tensor in (evidence.q, evidence.k, evidence.v, evidence.x):
        tensor[2] *= 20
    together = MAKE[method]().plan(evidence, 20).tokens(evidence.x)
    for image in range(4):
        own = slice(image, image + 1)
        parts = (evidence.q, evidence.k, evidence.v)
        alone = Evidence(
            *[tensor[own] for tensor in parts],
            evidence.scale,
            None,
            1,
            True,
            evidence.sizes[own],
            evidence.positions[own],
            evidence.x[own],
            BLOCK,
            DEPTH,
        )
        assert torch.allclose(MAKE[method]().plan(alone, 20).tokens(alone.x), together[own], atol=1e-5)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"tome"}))  # ToMe splits tokens by where they stand
def test_no_score_hangs_on_where_a_token_stands_in_x(method):
    """Patches that come in another order leave as the same tokens, the best first."""
    evidence = random_evidence((3, 30, 8, 1, True), batch=1, sized=True)
    order = torch.cat(
        [torch.zeros(1, dtype=torch.long), torch.randperm(29, generator=torch.Generator().manual_seed(4)) + 1]
    )
    shuffled = Evidence(
        *[tensor[:, :, order] for tensor in (evidence.q, evidence.k, evidence.v)],
        evidence.scale,
        None,
        1,
        True,
        evidence.sizes[:, order],
        evidence.positions[:, order],
        evidence.x[:, order],
        BLOCK,
        DEPTH,
    )
    one = MAKE[method]().plan(evidence, 20).positions(evidence.positions, PLACES)
    other = MAKE[method]().plan(shuffled, 20).positions(shuffled.positions, PLACES)
    assert torch.equal(one, other)


def test_attention_that_a_method_reads_follows_sizes_where_the_block_does(slow):
    shape = (2, 9, 4, 1, True)
    sized = random_evidence(shape, sized=True)
    evidence = Evidence(sized.q, sized.k, sized.v, sized.scale, sized.sizes.log()[:, None, None], 1, True, sized.sizes)
    for image in range(2):
        logs = sized.sizes[image].log().tolist()
        q, k = sized.q[image].tolist(), sized.k[image].tolist()
        S = torch.tensor(slow.attention_rows(q, k, sized.scale, lambda h, i, j, logs=logs: logs[j]))
        assert torch.allclose(evidence.probabilities()[image], S, atol=1e-6)
        assert torch.allclose(evidence.class_row()[image], S[:, 0], atol=1e-6)


def test_attention_that_a_method_reads_follows_a_bias_of_each_pair(slow):
    shown = random_evidence((2, 9, 4, 1, True), batch=1)
    bias = torch.randn(1, 2, 9, 9, generator=torch.Generator().manual_seed(2))
    evidence = Evidence(shown.q, shown.k, shown.v, shown.scale, bias, 1, True, None)
    q, k = shown.q[0].tolist(), shown.k[0].tolist()
    S = torch.tensor(slow.attention_rows(q, k, shown.scale, lambda h, i, j: float(bias[0, h, i, j])))
    assert torch.allclose(evidence.probabilities()[0], S, atol=1e-6)
    assert torch.allclose(evidence.class_row()[0], S[:, 0], atol=1e-6)


def test_random_ranks_all_places_once_by_its_seed_alone():
    torch.manual_seed(1)
    first = Random(PLACES, seed=3).rank
    torch.manual_seed(2)
    assert torch.equal(Random(PLACES, seed=3).rank, first)
    assert sorted(first.tolist()) == list(range(PLACES))
    assert not torch.equal(Random(PLACES, seed=4).rank, first)
    assert torch.equal(Random(PLACES, seed=3).half().rank, first)


def test_random_keeps_the_same_patches_of_every_image_and_of_more():
    evidence = random_evidence((1, 20, 4, 1, True), batch=3)
    chosen = {kept: Random(20).plan(evidence, kept).selected() for kept in (8, 15)}
    assert all(torch.equal(row, chosen[8][0]) for row in chosen[8])
    assert set(chosen[8][0].tolist()) < set(chosen[15][0].tolist())


def test_queries_of_cropr_stay_in_single_precision_where_the_model_is_cast():
    if not HALF:
        pytest.skip(NO_HALF)
    method = Cropr({BLOCK: torch.tensor([1.0, 2.0**-12] + [0.0] * 4)})
    x = torch.zeros(1, 4, DIM, dtype=torch.bfloat16)
    x[0, 1:, 0] = 60.0
    x[0, :, 1] = torch.tensor([0.0, 8.0, 32.0, 16.0])  # in bf16 60 + 2⁻⁷ is 60
    shown = random_evidence((1, 4, 4, 1, True), batch=1)
    evidence = Evidence(shown.q, shown.k, shown.v, 0.5, None, 1, True, None, None, x, BLOCK, DEPTH)
    assert method.bfloat16().plan(evidence, 3).selected().tolist() == [[0, 2, 3]]


def test_tome_joins_many_into_one_where_they_match_it_best():
    k = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.9, 0.1], [0.0, -1.0], [0.8, 0.1], [-1.0, 0.1], [1.0, 0.2]])
    x = torch.arange(7.0).reshape(1, 7, 1)
    evidence = Evidence(k[None, None], k[None, None], k[None, None], 1.0, None, 1, True, None)
    reduction = ToMe().plan(evidence, 4)
    assert reduction.tokens(x).flatten().tolist() == [0.0, (1 + 2 + 4 + 6) / 4, 3.0, 5.0]
    assert reduction.sizes().tolist() == [[1.0, 4.0, 1.0, 1.0]]


def test_the_schema_and_this_package_know_the_same_methods():
    assert set(METHODS) == set(MAKE)
    assert set(METHODS) | {"dense"} == set(PLACEMENT)
    assert all(make().placement == PLACEMENT[name] for name, make in MAKE.items())
    assert all(make().name == name for name, make in MAKE.items())


def test_pomt_goes_by_values_where_no_patch_attends_to_a_patch():
    heads, tokens, width = 2, 9, 4
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, tokens, width, generator=generator) for _ in range(3))
    sink = torch.tensor([0.0] + [-300.0] * (tokens - 1))[None, None, None]  # all that attention has goes to the prefix
    evidence = Evidence(q, k, v, 0.5, sink, 1, True, None)
    places = torch.arange(float(tokens)).reshape(1, tokens, 1)
    kept = METHODS["pomt"](None, {}, None).plan(evidence, 5).tokens(places)[0, 1:4, 0]
    by_value = v.amax(1).sum(-1)[0, 1:].argsort(descending=True)[:3] + 1
    assert kept.tolist() == by_value.tolist()
