"""What learns beside a block, and the method that selects by what it has learned so far.

A scorer's queries are the only part that outlives training, folded into one vector; its branch gives them something to
learn from, since nothing can be learned through a selection. The order of training is left to ``training``.
"""

from typing import Dict, List, Tuple, cast

import torch
from torch import nn

from tailfleet_reduce.cropr import Cropr
from tailfleet_reduce.method import Evidence, Selection

MLP_RATIO = 4


class Scorer(nn.Module):
    """The queries of one block and its auxiliary branch: patches (B, N - P, C) → logits (B, M, K).

    Cross-attention ``softmax(Q Xᵀ / √C) X`` of one head, without projections or norm; a residual MLP behind a norm; a
    linear head behind a norm (arXiv 2412.00965). Only patches are attended to: prefix tokens are never scored, and a
    class token, which knows most, would leave the queries nothing to find among patches.
    """

    def __init__(self, dim: int, queries: int, classes: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(queries, dim))
        nn.init.trunc_normal_(self.queries, std=dim**-0.5)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, MLP_RATIO * dim), nn.GELU(), nn.Linear(MLP_RATIO * dim, dim)
        )
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, classes))

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """See the class."""
        scores = self.queries @ patches.transpose(1, 2)  # (B, M, N - P)
        found = (scores * patches.shape[2] ** -0.5).softmax(-1) @ patches  # (B, M, C)
        return cast(torch.Tensor, self.head(found + self.mlp(found)))

    def folded(self) -> torch.Tensor:
        """q̄ = Σ Q, (C,) fp32."""
        return self.queries.detach().float().sum(0)


class LearningCropr(Cropr):
    """``cropr`` with queries that change: it selects by what they are at each call, and keeps what it looked at."""

    def __init__(self, scorers: "Dict[int, Scorer]") -> None:
        super().__init__({block: scorer.folded() for block, scorer in scorers.items()})
        self._scorers = scorers
        self._seen: List[Tuple[int, torch.Tensor]] = []
        self.watching = False
        """Whether a pass is part of a training step, whose branches will want to see what blocks left."""

    def plan(self, evidence: Evidence, kept: int) -> Selection:
        """As deployed; nothing is differentiated through the choice."""
        with torch.no_grad():
            getattr(self, self._names[evidence.block]).copy_(self._scorers[evidence.block].folded())
            if self.watching:
                self._seen.append((evidence.block, evidence.x[:, evidence.prefix :].detach()))
            return super().plan(evidence, kept)

    def watch(self, block: int, x: torch.Tensor, prefix: int) -> None:
        """A block that drops nothing leaves ``x`` (B, N, C): its scorer, where there is one, learns from that too."""
        if self.watching and block in self._scorers:
            self._seen.append((block, x[:, prefix:].detach()))

    def logits(self) -> Dict[int, torch.Tensor]:
        """What each block's branch says of the last forward pass, {block: (B, M, K)}; the pass is forgotten then."""
        seen, self._seen = self._seen, []
        return {block: self._scorers[block](patches) for block, patches in seen}
