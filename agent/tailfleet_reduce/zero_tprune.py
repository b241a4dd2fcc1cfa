"""Zero-TPrune (arXiv 2305.17328): rank tokens by PageRank on the attention graph, drop the similar and the unimportant.

No code was published with it; what the paper leaves open is said here. It looks at one block's attention matrix S and
keys, and what it drops leaves behind that block.

1. Weighted PageRank for each head: ``s ← Sᵀ s``, from a start where the class token weighs √N times any other token
   (``uniform``: as much as any other). Iterations: 30 in the first three blocks, 1 in the last three, 5 between.
2. Variance head filter: a head counts if the variance of its scores over patches, scaled to mean 1, lies in
   [0.01, 0.7]; if none does, all count. (Scaled to sum 1, as the paper has scores, no head could reach 0.01.)
3. Heads joined by root mean square: ``s_i = √(Σ_h counts_h s²_{h,i} / Σ_h counts_h)``.
4. Similarity stage: patches are ordered by 1–3 with one iteration (I′) and split in half. Each of the less important
   half finds its most similar in the other, by the cosine of their keys, mean over heads; of the less important half
   the ``similar`` best-matched are dropped. No more than half of the patches can go so.
5. Importance stage: 1–3 on the graph without those; the highest stay, in order of score.
"""

from typing import Any, Optional, Tuple

import torch
import torch.nn.functional as functional

from tailfleet_reduce.method import Evidence, Method, Selection, gather_tokens, with_prefix
from tailfleet_schema.schedule import SIMILAR_DROPPED, importance_passes

VARIANCE = (0.01, 0.7)
"""Bounds within which a head's scores, of mean 1, tell tokens apart and do not rest on a few alone."""


class ZeroTPrune(Method):
    """Selection by similarity, then by importance."""

    name = "zero-tprune"

    def __init__(self, similar: int = SIMILAR_DROPPED, uniform: bool = False) -> None:
        super().__init__()
        self.similar = similar
        self.uniform = uniform

    def needs_probabilities(self, has_class_token: bool) -> bool:
        """Always: the graph is S."""
        return True

    def plan(self, evidence: Evidence, kept: int) -> Selection:
        """Keep the prefix and ``kept - prefix`` patches: S drops up to ``similar``, I the rest of what has to go."""
        prefix = evidence.prefix
        score = evidence.summed_up(lambda graph, images: self._scores(evidence, graph, images, kept))  # (B, N - P)
        chosen = score.topk(kept - prefix, dim=1).indices  # (B, kept - P)
        return Selection(with_prefix(chosen, prefix))

    def _scores(self, evidence: Evidence, graph: torch.Tensor, images: slice, kept: int) -> torch.Tensor:
        """Score of each patch of ``images`` by their ``graph`` (b, H, N, N), (b, N - P): -1 for the similar ones."""
        prefix, tokens = evidence.prefix, graph.shape[-1]
        start = self._start(evidence, graph)  # (1, 1, 1, N)
        similar = _least(_least(self.similar, tokens - kept), (tokens - prefix) // 2)
        dropped: Optional[torch.Tensor] = None
        score: Optional[torch.Tensor] = None
        if similar:
            score = importance(start @ graph, prefix, tokens - prefix)  # (b, N - P)
            dropped = most_similar(score, evidence.k[images, :, prefix:], similar)  # (b, similar) among the patches
        if score is None or dropped is None or similar < tokens - kept:
            present: Optional[torch.Tensor] = None
            if dropped is not None:
                present = torch.ones_like(graph[:, 0, 0]).scatter(1, dropped + prefix, 0.0)[:, None, None]
            votes = ranked(start, graph, importance_passes(self.name, evidence.block, evidence.depth), present)
            score = importance(votes, prefix, tokens - prefix - similar)
        if dropped is not None:
            score = score.scatter(1, dropped, -1.0)  # below any importance
        return score

    def _start(self, evidence: Evidence, graph: torch.Tensor) -> torch.Tensor:
        start = torch.ones_like(graph[:1, :1, :1])  # (1, 1, 1, N)
        if self.uniform or not evidence.has_class_token:
            return start
        return torch.cat([start[..., :1] * graph.shape[-1] ** 0.5, start[..., 1:]], -1)


_least: Any = getattr(torch, "sym_min", min)
"""Of two counts: of an export's free ones it stays free, where ``min`` would take the example's for all."""


def ranked(
    start: torch.Tensor, graph: torch.Tensor, times: int, present: Optional[torch.Tensor] = None
) -> torch.Tensor:
    """``s ← Sᵀ s``, ``times`` times from ``start`` (1, 1, 1, N) on ``graph`` (B, H, N, N) → (B, H, 1, N).

    ``present`` (B, 1, 1, N) is 0 for tokens that are not in the graph any more, and 1 for the others.
    """
    score = start if present is None else start * present
    for _ in range(times):
        score = score @ graph
        if present is not None:
            score = score * present
    return score


def importance(score: torch.Tensor, prefix: int, patches: int) -> torch.Tensor:
    """Scores of each head (B, H, 1, N) → of each patch over the heads that count, (B, N - P).

    ``patches`` is how many of the patches are still in the graph; the score of the others is 0.
    """
    score = score[:, :, 0, prefix:]  # (B, H, N - P)
    # A head that looked at dropped tokens alone may have no weight left: it has no variance then, and does not count.
    least = patches * torch.finfo(score.dtype).tiny
    score = score * (patches / score.sum(2, keepdim=True).clamp(min=least))
    variance = score.square().sum(2) / patches - 1.0  # (B, H)
    low, high = VARIANCE
    counts = ((variance >= low) & (variance <= high)).to(score.dtype)
    total = counts.sum(1, keepdim=True)  # (B, 1)
    weight = torch.where(total > 0, counts / total.clamp(min=1), torch.full_like(counts, 1.0 / counts.shape[1]))
    return (weight.unsqueeze(1) @ score.square()).squeeze(1).sqrt()


def most_similar(score: torch.Tensor, keys: torch.Tensor, count: int) -> torch.Tensor:
    """The ``count`` of the less important half by ``score`` (B, n) that are most like one of the other half.

    ``keys`` (B, H, n, d). Returns their places among the n, (B, count).
    """
    metric = functional.normalize(keys.mean(1, dtype=score.dtype), dim=-1)  # (B, n, d)
    order = score.argsort(dim=1, descending=True)
    more, less = _halves(order)
    likeness = gather_tokens(metric, less) @ gather_tokens(metric, more).transpose(1, 2)  # (B, ⌊n/2⌋, ⌈n/2⌉)
    best = likeness.amax(2).topk(count, dim=1).indices
    return less.gather(1, best)


def _halves(order: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    middle = (order.shape[1] + 1) // 2
    return order[:, :middle], order[:, middle:]
