"""Each method against its formula, written out token by token, on the tensors of one block."""

import pytest
import torch

from tailfleet_reduce import METHODS
from tailfleet_reduce import pomt as pomt_module
from tailfleet_reduce import topk as topk_module
from tailfleet_reduce.method import Evidence
from tailfleet_schema.schedule import PLACEMENT, smallest_reachable

# heads, tokens, width of a head, prefix tokens, whether the first is a class token
SHAPES = [
    (1, 6, 4, 1, True),
    (3, 13, 8, 1, True),
    (2, 14, 5, 2, True),
    (3, 12, 4, 0, False),
    (2, 17, 4, 4, True),
    (2, 16, 4, 5, True),
]


def random_evidence(shape, dtype=torch.float32, batch=2, sized=False, seed=0):
    heads, tokens, width, prefix, has_class_token = shape
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(batch, heads, tokens, width, generator=generator).to(dtype) for _ in range(3))
    sizes = torch.randint(1, 9, (batch, tokens), generator=generator).float() if sized else None
    return Evidence(q, k, v, width**-0.5, None, prefix, has_class_token, sizes)


def counts(method, tokens, prefix):
    least = smallest_reachable(method, tokens, prefix)
    return sorted({least, (least + tokens) // 2, tokens - 1})


def transcribe(slow, method, evidence, x, image, kept):
    sizes = None if evidence.sizes is None else evidence.sizes[image].tolist()
    S = slow.attention_rows(evidence.q[image].tolist(), evidence.k[image].tolist(), evidence.scale, None)
    return slow.methods[method](
        S,
        evidence.k[image].tolist(),
        evidence.v[image].tolist(),
        x[image].tolist(),
        sizes,
        evidence.prefix,
        evidence.has_class_token,
        kept,
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sized", [False, True], ids=["fresh", "sized"])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_method_computes_its_formula(slow, method, shape, sized):
    evidence = random_evidence(shape, sized=sized)
    x = torch.randn(2, shape[1], 6, generator=torch.Generator().manual_seed(1))
    for kept in counts(method, shape[1], shape[3]):
        reduction = METHODS[method].plan(evidence, kept)
        tokens, sizes = reduction.tokens(x), reduction.sizes()
        assert tokens.shape == (2, kept, 6)
        assert torch.equal(tokens[:, : shape[3]], x[:, : shape[3]])  # prefix tokens first, as they were
        for image in range(2):
            expected, expected_sizes = transcribe(slow, method, evidence, x, image, kept)
            assert torch.allclose(tokens[image], torch.tensor(expected), atol=1e-5)
            if expected_sizes is None:
                assert sizes is None
            else:
                assert torch.allclose(sizes[image], torch.tensor(expected_sizes))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("module", ["topk", "pomt"])
def test_scores_in_bf16_are_those_of_the_formula_but_for_rounding(slow, module, shape):
    evidence = random_evidence(shape, torch.bfloat16)
    scores = {"topk": topk_module, "pomt": pomt_module}[module].scores(evidence)
    assert scores.dtype == torch.float32
    for image in range(2):
        q, k, v = (tensor[image].tolist() for tensor in (evidence.q, evidence.k, evidence.v))
        S = slow.attention_rows(q, k, evidence.scale, None)
        expected = slow.topk_scores(S, shape[3], shape[4]) if module == "topk" else slow.pomt_scores(S, v, shape[3])
        assert torch.allclose(scores[image], torch.tensor(list(expected.values())), rtol=0.03)


def test_attention_that_a_method_reads_follows_sizes_where_the_block_does(slow):
    shape = (2, 9, 4, 1, True)
    sized = random_evidence(shape, sized=True)
    evidence = Evidence(sized.q, sized.k, sized.v, sized.scale, sized.sizes.log()[:, None, None], 1, True, sized.sizes)
    for image in range(2):
        S = slow.attention_rows(
            sized.q[image].tolist(), sized.k[image].tolist(), sized.scale, sized.sizes[image].tolist()
        )
        assert torch.allclose(evidence.probabilities()[image], torch.tensor(S), atol=1e-6)
        assert torch.allclose(evidence.class_row()[image], torch.tensor(S)[:, 0], atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_pooled_token_of_many_large_ones_does_not_overflow(dtype):
    if not hasattr(torch.nn.functional, "scaled_dot_product_attention"):
        pytest.skip(
            "torch {} sums half-precision products on a CPU in half precision, or not at all".format(torch.__version__)
        )
    evidence = random_evidence((2, 200, 4, 1, True), torch.float32, batch=1)
    x = torch.full((1, 200, 3), 1000.0).to(dtype)
    for name, method in METHODS.items():
        kept = smallest_reachable(name, 200, 1)
        reduction = method.plan(evidence, kept)
        tokens = reduction.tokens(x)
        assert torch.allclose(tokens.float(), torch.full((1, kept, 3), 1000.0), rtol=0.01)


def test_tome_merges_bf16_keys_as_their_exact_values_say(slow):
    evidence = random_evidence((3, 21, 8, 1, True), torch.bfloat16)
    x = torch.randn(2, 21, 5)
    tokens = METHODS["tome"].plan(evidence, 12).tokens(x)
    for image in range(2):
        expected, _ = transcribe(slow, "tome", evidence, x, image, 12)
        assert torch.allclose(tokens[image], torch.tensor(expected), atol=1e-5)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_an_image_does_not_depend_on_its_batch_mates(method):
    evidence = random_evidence((3, 30, 8, 1, True), batch=4)
    x = torch.randn(4, 30, 6)
    together = METHODS[method].plan(evidence, 20).tokens(x)
    for image in range(4):
        own = slice(image, image + 1)
        alone = Evidence(evidence.q[own], evidence.k[own], evidence.v[own] * 1.0, evidence.scale, None, 1, True, None)
        assert torch.allclose(METHODS[method].plan(alone, 20).tokens(x[own]), together[own], atol=1e-6)


def test_the_schema_and_this_package_know_the_same_methods():
    assert set(METHODS) | {"dense"} == set(PLACEMENT)
    assert all(method.placement == PLACEMENT[name] for name, method in METHODS.items())
