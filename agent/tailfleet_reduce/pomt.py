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
        index = with_prefix(chosen, evidence.prefix)
        size = evidence.sizes if evidence.sizes is not None else _ones(evidence.k)  # (B, N)
        return SelectionAndPool(index, size)


def scores(evidence: Evidence) -> torch.Tensor:
    """Score of each patch token, (B, N - P) fp32."""
    prefix = evidence.prefix
    attention = evidence.summed_up(lambda s, _: s.amax(1)[:, prefix:, prefix:].sum(1))  # (B, N - P)
    attention = attention / attention.amax(1, keepdim=True).clamp(min=torch.finfo(attention.dtype).tiny)
    value = evidence.v.amax(1).sum(-1, dtype=attention.dtype).softmax(-1)[:, prefix:]
    return attention + value


class SelectionAndPool(Reduction):
    """Tokens at ``index`` (B, m - 1) leave; the mean of the others, weighed by ``size`` (B, N), follows them."""

    def __init__(self, index: torch.Tensor, size: torch.Tensor) -> None:
        self._index = index
        self._size = size
        pooled = size.scatter(1, index, 0.0)  # (B, N): what is kept does not enter the mean
        self._pooled_size = pooled.sum(1, keepdim=True)  # (B, 1)
        self._weight = (pooled / self._pooled_size).unsqueeze(1)  # (B, 1, N)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, C) → (B, m, C)."""
        return torch.cat([gather_tokens(x, self._index), self._weight.to(x.dtype) @ x], 1)

    def sizes(self) -> torch.Tensor:
        """(B, m)."""
        return torch.cat([self._size.gather(1, self._index), self._pooled_size], 1)

    def positions(self, positions: torch.Tensor, nowhere: int) -> torch.Tensor:
        """(B, m)."""
        return torch.cat([positions.gather(1, self._index), torch.full_like(positions[:, :1], nowhere)], 1)


def _ones(k: torch.Tensor) -> torch.Tensor:
    """Size one for each token of ``k`` (B, H, N, d), (B, N) fp32, made on its device."""
    return torch.ones(k.shape[0], k.shape[2], device=k.device, dtype=torch.float32)
