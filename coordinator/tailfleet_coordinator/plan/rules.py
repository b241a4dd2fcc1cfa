"""POMT's published rule: one block, one count, by a weighted sum of latency and accuracy.

Source: "Pruning One More Token is Enough", arXiv 2407.05941. ``U(n) = α·(1 − L(n)/max L) + (1 − α)·A(n)/max A`` with
α = 0.5, L(n) the latency with n tokens in every block, A(n) the top-1 with random n-token inputs; n* = argmax, and the
N − n* tokens beyond it are pruned in the block of index 3. Two differences from the published code: n* counts
the pooled token and the prefix, so that the deployed model sees n* tokens and not n* + 2, past a cliff; and n = N,
pruning nothing, is a candidate. What the reduction itself costs is no part of the rule.
"""

from collections.abc import Sequence

import numpy as np

from tailfleet_coordinator.plan.halves import Whole
from tailfleet_schema.curve import Part, UnitResult
from tailfleet_schema.errors import InputError
from tailfleet_schema.schedule import Schedule, smallest_reachable
from tailfleet_schema.workload import ModelSpec

BLOCK = 3
ALPHA = 0.5


def input_accuracy(results: Sequence[UnitResult]) -> dict[int, float]:
    """A(n) in percent at the measured counts, from INPUT results; empty where there are none."""
    return {
        r.unit.tokens: 100.0 * r.judgement.correct / r.judgement.images
        for r in results
        if r.unit.part is Part.INPUT and r.judgement is not None
    }


def pomt_rule(
    model: ModelSpec, method: str, curve: Whole, accuracy: dict[int, float], alpha: float = ALPHA
) -> Schedule:
    """The schedule of the rule for ``method``; dense where n* = N.

    n runs over the counts of ``curve`` that ``method`` can reach in one block, A being linear between its
    own counts. Raises ``InputError`` where ``accuracy`` is empty.
    """
    if not accuracy:
        raise InputError("the rule needs the accuracy of shortened inputs, and so labelled images")
    geometry = model.geometry
    known = sorted(accuracy)
    floor = max(smallest_reachable(method, geometry.tokens, geometry.prefix), known[0])
    counts = [n for n in curve.tokens if n >= floor]
    latency = np.array([curve.value_ns(n) for n in counts])
    top1 = np.interp(counts, known, [accuracy[n] for n in known])
    utility = alpha * (1.0 - latency / latency.max()) + (1.0 - alpha) * top1 / max(float(top1.max()), 1e-9)
    # Of equals the one with more tokens.
    best = counts[len(counts) - 1 - int(np.argmax(utility[::-1]))]
    block = min(BLOCK, geometry.depth - 1)
    keep = [geometry.tokens] * block + [best] * (geometry.depth - block)
    return Schedule(method, model.name, geometry.tokens, geometry.prefix, keep)
