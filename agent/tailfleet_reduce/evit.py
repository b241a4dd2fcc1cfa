"""EViT, "Not All Patches are What You Need" (arXiv 2202.07800): keep by attention, fuse the rest.

Score as Top-K's: ``score_j = mean_h S[h, CLS, j]``. The best T patches stay, in order of score; of all others one
token is made, ``Σ score_j · x_j`` over them, appended last, so ``keep`` is P + T + 1. The weights are as published:
they do not sum to one. Published at blocks 3, 6 and 9 with T = ⌈ρ(N − 1)⌉ after fine-tuning; here free of
training. The fused token is scored by later blocks like any patch, and carries the number of tokens it stands for.
"""

from typing import Optional

import torch

from tailfleet_reduce.method import Evidence, Method, Reduction, gather_tokens, with_prefix
from tailfleet_reduce.topk import scores


class EViT(Method):
    """Selection by the class token's attention, with one fused token."""

    name = "evit"
    reads_sizes = True

    def needs_probabilities(self, has_class_token: bool) -> bool:
        """Only without a class token."""
        return not has_class_token

    def plan(self, evidence: Evidence, kept: int) -> "SelectionAndFusion":
        """Keep the prefix and the ``kept - prefix - 1`` best patches; fuse the others."""
        score = scores(evidence)  # (B, N - P)
        chosen = score.topk(kept - evidence.prefix - 1, dim=1).indices  # (B, T)
        weight = score.scatter(1, chosen, 0.0)  # what is kept does not enter the sum
        index = with_prefix(chosen, evidence.prefix)
        return SelectionAndFusion(index, weight, evidence.prefix, evidence.sizes)


class SelectionAndFusion(Reduction):
    """Tokens at ``index`` (B, m - 1) leave; the sum of the patches by ``weight`` (B, N - P) follows them."""

    normalised = False

    def __init__(self, index: torch.Tensor, weight: torch.Tensor, prefix: int, size: Optional[torch.Tensor]) -> None:
        self._index = index
        self._weight = weight.unsqueeze(1)  # (B, 1, N - P)
        self._prefix = prefix
        self._size = size  # (B, N) or None

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, C) → (B, m, C)."""
        fused = self._weight.to(x.dtype) @ x[:, self._prefix :]
        return torch.cat([gather_tokens(x, self._index), fused], 1)

    def sizes(self) -> torch.Tensor:
        """(B, m)."""
        size = self._size
        if size is None:
            size = torch.ones_like(self._weight[:, 0, :1]).expand(-1, self._weight.shape[2] + self._prefix)
        kept = size.gather(1, self._index)
        return torch.cat([kept, size.sum(1, keepdim=True) - kept.sum(1, keepdim=True)], 1)

    def positions(self, positions: torch.Tensor, nowhere: int) -> torch.Tensor:
        """(B, m)."""
        return torch.cat([positions.gather(1, self._index), torch.full_like(positions[:, :1], nowhere)], 1)
