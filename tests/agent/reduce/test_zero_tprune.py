"""Zero-TPrune's stages one by one, on attention graphs that are made to need them."""

import pytest
import torch

from tailfleet_reduce.method import Evidence
from tailfleet_reduce.zero_tprune import ZeroTPrune
from tailfleet_schema.schedule import importance_passes

TOKENS = 24


def evidence_of(S, prefix=1, has_class_token=True, block=4, depth=12, seed=0):
    """What a block shows whose attention is ``S`` (B, H, N, N): queries say nothing, so a bias says all."""
    generator = torch.Generator().manual_seed(seed)
    batch, heads, tokens, _ = S.shape
    q = torch.zeros(batch, heads, tokens, 4)
    k = torch.randn(batch, heads, tokens, 4, generator=generator)
    return Evidence(q, k, k, 1.0, S.log(), prefix, has_class_token, None, None, None, block, depth)


def graphs(*spreads, seed=0):
    """Attention of one image, a head for each spread: how unevenly its columns are looked at."""
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randn(len(spreads), 1, TOKENS, generator=generator)
    noise = torch.randn(len(spreads), TOKENS, TOKENS, generator=generator)
    spread = torch.tensor(spreads)[:, None, None]
    return (columns * spread + noise * spread / 4).softmax(-1)[None]


def transcribed(slow, evidence, kept, S, **settings):
    k = evidence.k[0].tolist()
    x = [[float(token)] for token in range(S.shape[-1])]
    shown = slow.seen(
        S[0].double().tolist(),
        k,
        k,
        x,
        None,
        evidence.prefix,
        evidence.has_class_token,
        block=evidence.block,
        depth=evidence.depth,
    )
    return slow.methods["zero-tprune"](shown, kept, **settings)[2]


def kept_by(evidence, kept, **settings):
    return ZeroTPrune(**settings).plan(evidence, kept).selected()[0].tolist()


@pytest.mark.parametrize("similar", [0, 4])
@pytest.mark.parametrize(
    ("spreads", "counting"),
    [
        ((0.3, 0.5, 0.4), [0, 1, 2]),
        ((0.3, 4.0, 0.02), [0]),
        ((3.0, 0.5, 0.6), [1, 2]),
        ((0.02, 3.0, 0.04), [0, 1, 2]),  # none would: all do
    ],
    ids=["all", "one", "some", "none"],
)
def test_heads_that_tell_too_little_or_rest_on_a_few_do_not_count(slow, spreads, counting, similar):
    S = graphs(*spreads)
    patches = list(range(1, TOKENS))
    everyone = slow.passed_on(S[0].tolist(), [TOKENS**0.5] + [1.0] * len(patches), list(range(TOKENS)), 5)
    assert slow.counting_heads(everyone, patches)[0] == counting
    evidence = evidence_of(S)
    for kept in (2, 9, 17):
        assert kept_by(evidence, kept, similar=similar) == transcribed(slow, evidence, kept, S, similar=similar)


@pytest.mark.parametrize(
    ("kept", "similar"),
    [(TOKENS - 3, 10), (TOKENS - 1, 1), (13, 23), (9, 23), (2, 100)],
    ids=["fewer than alike", "one", "half of the patches", "more than half", "all"],
)
def test_what_is_alike_leaves_first_and_at_most_half_so(slow, kept, similar):
    S = graphs(0.4, 0.6)
    evidence = evidence_of(S)
    assert kept_by(evidence, kept, similar=similar) == transcribed(slow, evidence, kept, S, similar=similar)


def test_only_the_similarity_stage_asks_for_one_vote(slow):
    """Where it drops all that has to go, importance after many iterations plays no part."""
    S = graphs(0.4, 0.6)
    kept = [kept_by(evidence_of(S, block=block), TOKENS - 4, similar=4) for block in (0, 4, 11)]
    assert kept[0] == kept[1] == kept[2] == transcribed(slow, evidence_of(S), TOKENS - 4, S, similar=4)


def test_without_a_similarity_stage_keys_play_no_part(slow):
    S = graphs(0.4, 0.6)
    one, other = evidence_of(S, seed=1), evidence_of(S, seed=2)
    assert kept_by(one, 12, similar=0) == kept_by(other, 12, similar=0) == transcribed(slow, one, 12, S, similar=0)
    assert kept_by(one, 12, similar=4) != kept_by(other, 12, similar=4)


@pytest.mark.parametrize(("block", "times"), [(0, 30), (2, 30), (3, 5), (8, 5), (9, 1), (11, 1)])
def test_importance_is_passed_on_more_often_in_early_blocks(slow, block, times):
    # Tokens mostly look at themselves, so importance moves slowly, and each number of iterations keeps others.
    S = 0.9 * torch.eye(TOKENS) + 0.1 * graphs(1.5, 1.2, 1.8)
    evidence = evidence_of(S, block=block)
    assert importance_passes("zero-tprune", block, 12) == times
    kept = kept_by(evidence, 12, similar=0)
    assert kept == transcribed(slow, evidence, 12, S, similar=0)
    others = [set(kept_by(evidence_of(S, block=other), 12, similar=0)) for other in (0, 4, 11)]
    assert len({frozenset(other) for other in others}) == 3


def test_in_a_shallow_model_early_blocks_come_before_late_ones():
    assert [importance_passes("zero-tprune", block, 4) for block in range(4)] == [30, 30, 30, 1]
    assert [importance_passes("zero-tprune", block, 7) for block in range(7)] == [30, 30, 30, 5, 1, 1, 1]


@pytest.mark.parametrize(("prefix", "has_class_token"), [(1, True), (3, True), (3, False), (0, False)])
@pytest.mark.parametrize("uniform", [False, True])
def test_the_class_token_starts_with_more_weight_unless_uniform(slow, prefix, has_class_token, uniform):
    S = graphs(0.4, 0.6)
    evidence = evidence_of(S, prefix, has_class_token, block=11)
    kept = kept_by(evidence, 12, similar=4, uniform=uniform)
    assert kept == transcribed(slow, evidence, 12, S, similar=4, uniform=uniform)


def test_the_class_tokens_start_changes_what_is_kept():
    evidence = evidence_of(graphs(0.4, 0.6), block=11)
    assert kept_by(evidence, 12) != kept_by(evidence, 12, uniform=True)


def test_a_head_that_looked_at_a_dropped_token_alone_does_not_spoil_the_others(slow):
    """After many iterations without that token nothing is left of the head's scores: it tells nothing, and is out."""
    S = graphs(0.4, 0.4, 0.3)
    others = kept_by(evidence_of(S[:, 1:], block=0), 20, similar=0)
    lost = others[-1]
    sink = torch.full((TOKENS, TOKENS), 1e-5)
    sink[:, lost] = 1 - 1e-5 * (TOKENS - 1)
    S[0, 0] = sink
    evidence = evidence_of(S, block=0)
    alike = min(set(range(1, TOKENS)) - {lost}, key=lambda token: -S[0, 1:, :, token].sum())
    evidence.k[:, :, lost] = evidence.k[:, :, alike]  # what the other heads find least, and like the most important
    kept = kept_by(evidence, 12, similar=1)
    assert lost not in kept
    assert kept == transcribed(slow, evidence, 12, S, similar=1)
