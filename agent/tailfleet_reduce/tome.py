"""ToMe, Token Merging (arXiv 2210.09461): join the most similar tokens, in as many blocks as wanted.

1. metric = mean over heads of K, L2-normalised.
2. A = tokens at even positions, B = at odd ones; similarity = A · Bᵀ. Prefix tokens neither merge nor are merged
   into: rows of those in A and columns of those in B are −∞.
3. Each a takes its most similar b; the r best-matched a merge into their b, several into one if so matched.
4. Merging is the mean weighed by sizes, and sizes add.
5. Attention in later blocks is proportional: logits += log(size of the key), unless the schedule's ``proportional`` is
   false (for models that were not trained on labels, MAE off the shelf).

The tokens that leave are: prefix tokens in their order, the unmerged of A in their order, then B. No more than half of
the unprotected tokens can be merged in one block. Sums are products with a small matrix: ``scatter_reduce``
does not survive export, and is slower.
"""

from typing import Optional

import torch
import torch.nn.functional as functional

from tailfleet_reduce.method import Evidence, Method, Reduction, gather_tokens, with_prefix


class ToMe(Method):
    """Merging by the similarity of keys."""

    name = "tome"
    reads_sizes = True

    def __init__(self, proportional: bool = True) -> None:
        super().__init__()
        self.proportional = proportional

    def plan(self, evidence: Evidence, kept: int) -> "Merging":
        """Merge ``N - kept`` tokens."""
        # A sum in place of the mean: the length does not count.
        metric = evidence.k.sum(1, dtype=torch.promote_types(evidence.k.dtype, torch.float32))  # (B, N, d)
        return Merging(metric, metric.shape[1] - kept, evidence.prefix, evidence.sizes)


class Merging(Reduction):
    """The ``merged`` (r) best-matched of A joined into B, by ``metric`` (B, N, d) and ``size`` (B, N) or None."""

    def __init__(self, metric: torch.Tensor, merged: int, prefix: int, size: Optional[torch.Tensor]) -> None:
        metric = functional.normalize(metric, dim=-1)
        similarity = metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)  # (B, |A|, |B|)
        # Prefix tokens come first: ⌈P/2⌉ of them are in A, ⌊P/2⌋ in B.
        prefix_a, prefix_b = (prefix + 1) // 2, prefix // 2
        best = similarity[:, prefix_a:, prefix_b:].max(2)  # unprotected alone: (B, a) each
        order = best.values.argsort(dim=1, descending=True)
        source = order[:, :merged]  # (B, r) among the unprotected of A
        target = best.indices.gather(1, source)  # (B, r) among the unprotected of B
        self._source = (source + prefix_a) * 2  # (B, r) among all
        unmerged = (order[:, merged:].sort(1).values + prefix_a) * 2 - prefix
        self._others = with_prefix(unmerged, prefix)  # (B, m - b): what leaves as it is
        self._first_b = 2 * prefix_b + 1
        count = similarity.shape[2] - prefix_b  # b
        into = torch.arange(count, device=metric.device)[:, None] == target[:, None]  # (B, b, r)
        weight = into.to(metric.dtype)
        if size is None:
            size_b = torch.ones((), device=metric.device, dtype=metric.dtype)  # broadcasts to (B, b)
        else:
            weight = weight * size.gather(1, self._source)[:, None]
            size_b = size[:, self._first_b :: 2]
        self._size = size
        self._total = weight.sum(2) + size_b  # (B, b): sizes of B after merging
        self._share_b = (size_b / self._total).unsqueeze(2)  # (B, b, 1)
        self._share_source = weight / self._total.unsqueeze(2)  # (B, b, r)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, C) → (B, m, C)."""
        b = x[:, self._first_b :: 2] * self._share_b.to(x.dtype)
        joined = torch.baddbmm(b, self._share_source.to(x.dtype), gather_tokens(x, self._source))
        return torch.cat([gather_tokens(x, self._others), joined], 1)

    def sizes(self) -> torch.Tensor:
        """(B, m)."""
        if self._size is None:
            return torch.cat([self._total.new_ones(self._others.shape), self._total], 1)
        return torch.cat([self._size.gather(1, self._others), self._total], 1)

    def positions(self, positions: torch.Tensor, nowhere: int) -> torch.Tensor:
        """(B, m): what is merged into a token of B is where that is."""
        return torch.cat([positions.gather(1, self._others), positions[:, self._first_b :: 2]], 1)
