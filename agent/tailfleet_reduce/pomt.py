"""POMT, "Pruning One More Token is Enough" (arXiv 2407.05941): keep by attention and value, pool the rest.

::

    a_j   = Σ_{i ∈ patches} max_h S[h, i, j]          patch rows and columns only
    a     = a / max_j a                               for each image; the release divides by the batch's maximum
    v_j   = softmax_j( Σ_c max_h V[h, j, c] )         over all N, prefix entries then dropped
    score = a + v

The best T patches stay, in order of score; all others become one token, their mean, appended last, so ``keep`` is
P + T + 1. A token pooled by an earlier block is a patch like any other, and weighs in a later mean by the number
of tokens it stands for. Deliberately unlike the release: scores and explicit attention in reducing blocks alone.
"""

from typing import Optional

import torch

from tailfleet_reduce.method import Evidence, Method, Reduction, gather_tokens, with_prefix


class Pomt(Method):
    """Selection by attention and value, with one pooled token."""

    name = "pomt"
    reads_sizes = True

    def needs_probabilities(self, has_class_token: bool) -> bool:
        """Always: the maximum over heads of every entry is summed."""
        return True

    def plan(self, evidence: Evidence, kept: int) -> "SelectionAndPool":
        """Keep the prefix and the ``kept - prefix - 1`` best patches; pool the others."""
        score = scores(evidence)
        chosen = score.topk(kept - evidence.prefix - 1, dim=1).indices  # (B, T)
        return SelectionAndPool(with_prefix(chosen, evidence.prefix), score.shape[1] + evidence.prefix, evidence.sizes)


def scores(evidence: Evidence) -> torch.Tensor:
    """Score of each patch token, (B, N - P) fp32."""
    prefix = evidence.prefix
    attention = evidence.summed_up(lambda s, _: s.amax(1)[:, prefix:, prefix:].sum(1))  # (B, N - P)
    attention = attention / attention.amax(1, keepdim=True).clamp(min=torch.finfo(attention.dtype).tiny)
    value = evidence.v.amax(1).sum(-1, dtype=attention.dtype).softmax(-1)[:, prefix:]
    return attention + value


class SelectionAndPool(Reduction):
    """Tokens at ``index`` (B, m - 1) of ``tokens`` (N) leave; the mean of the others, weighed by ``size`` (B, N) or by
    one each, follows them."""

    def __init__(self, index: torch.Tensor, tokens: int, size: Optional[torch.Tensor]) -> None:
        self._index = index
        self._size = size
        pooled = tokens - index.shape[1]
        if size is None:
            weight = torch.full((), 1.0 / pooled, device=index.device).expand(index.shape[0], tokens)
            self._pooled_size = weight.new_full((index.shape[0], 1), float(pooled))
            self._weight = weight.scatter(1, index, 0.0).unsqueeze(1)  # (B, 1, N): what is kept is not in the mean
        else:
            others = size.scatter(1, index, 0.0)
            self._pooled_size = others.sum(1, keepdim=True)  # (B, 1)
            self._weight = (others / self._pooled_size).unsqueeze(1)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, C) → (B, m, C)."""
        return torch.cat([gather_tokens(x, self._index), self._weight.to(x.dtype) @ x], 1)

    def sizes(self) -> torch.Tensor:
        """(B, m)."""
        kept = (
            torch.ones_like(self._index, dtype=torch.float32)
            if self._size is None
            else self._size.gather(1, self._index)
        )
        return torch.cat([kept, self._pooled_size], 1)

    def positions(self, positions: torch.Tensor, nowhere: int) -> torch.Tensor:
        """(B, m)."""
        return torch.cat([positions.gather(1, self._index), torch.full_like(positions[:, :1], nowhere)], 1)
