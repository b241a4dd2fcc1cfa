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

from tailfleet_reduce.method import Evidence, Method, Reduction, gather_tokens


class ToMe(Method):
    """Merging by the similarity of keys."""

    name = "tome"
    reads_sizes = True

    def __init__(self, proportional: bool = True) -> None:
        super().__init__()
        self.proportional = proportional

    def plan(self, evidence: Evidence, kept: int) -> "Merging":
        """Merge ``N - kept`` tokens."""
        metric = evidence.k.mean(1, dtype=torch.promote_types(evidence.k.dtype, torch.float32))  # (B, N, d)
        return Merging(metric, metric.shape[1] - kept, evidence.prefix, evidence.sizes)


class Merging(Reduction):
    """The ``merged`` (r) best-matched of A joined into B, by ``metric`` (B, N, d) and ``size`` (B, N) or None."""

    def __init__(self, metric: torch.Tensor, merged: int, prefix: int, size: Optional[torch.Tensor]) -> None:
        metric = functional.normalize(metric, dim=-1)
        similarity = metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)  # (B, |A|, |B|)
        # Prefix tokens come first: ⌈P/2⌉ of them are in A, ⌊P/2⌋ in B.
        self._prefix_a, self._prefix_b = (prefix + 1) // 2, prefix // 2
        best = similarity[:, self._prefix_a :, self._prefix_b :].max(2)  # unprotected alone: (B, a) each
        order = best.values.argsort(dim=1, descending=True)
        source = order[:, :merged]  # (B, r) among the unprotected of A
        target = best.indices.gather(1, source)  # (B, r) among the unprotected of B
        self._source = source + self._prefix_a
        self._unmerged = order[:, merged:].sort(1).values + self._prefix_a
        count = similarity.shape[2] - self._prefix_b  # b
        into = torch.arange(count, device=metric.device)[:, None] == target[:, None]  # (B, b, r)
        weight = into.to(metric.dtype)
        if size is None:
            size_b = torch.ones((), device=metric.device, dtype=metric.dtype)  # broadcasts to (B, b)
        else:
            weight = weight * size[:, ::2].gather(1, self._source)[:, None]
            size_b = size[:, 1::2][:, self._prefix_b :]
        self._size = size
        self._total = weight.sum(2) + size_b  # (B, b): sizes of B after merging
        self._share_b = (size_b / self._total).unsqueeze(2)  # (B, b, 1)
        self._share_source = weight / self._total.unsqueeze(2)  # (B, b, r)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, C) → (B, m, C)."""
        a, b = x[:, ::2], x[:, 1::2][:, self._prefix_b :]
        joined = self._share_source.to(x.dtype) @ gather_tokens(a, self._source) + b * self._share_b.to(x.dtype)
        prefix = x[:, : self._prefix_a + self._prefix_b]
        return torch.cat([prefix, gather_tokens(a, self._unmerged), joined], 1)

    def sizes(self) -> torch.Tensor:
        """(B, m)."""
        batch, prefix = self._total.shape[0], self._prefix_a + self._prefix_b
        if self._size is None:
            untouched = self._total.new_ones((batch, prefix + self._unmerged.shape[1]))
            return torch.cat([untouched, self._total], 1)
        unmerged = self._size[:, ::2].gather(1, self._unmerged)
        return torch.cat([self._size[:, :prefix], unmerged, self._total], 1)

    def positions(self, positions: torch.Tensor, nowhere: int) -> torch.Tensor:
        """(B, m): what is merged into a token of B is where that is."""
        prefix = positions[:, : self._prefix_a + self._prefix_b]
        unmerged = positions[:, ::2].gather(1, self._unmerged)
        return torch.cat([prefix, unmerged, positions[:, 1::2][:, self._prefix_b :]], 1)
