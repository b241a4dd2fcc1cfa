"""ToMe, Token Merging (arXiv 2210.09461): join the most similar tokens, in as many blocks as wanted.

1. metric = mean over heads of K, L2-normalised.
2. A = tokens at even positions, B = at odd ones; similarity = A · Bᵀ. Prefix tokens neither merge nor are merged
   into: rows of those in A and columns of those in B are −∞.
3. Each a takes its most similar b; the r best-matched a merge into their b, several into one if so matched.
4. Merging is the mean weighed by sizes, and sizes add.
5. Attention in later blocks is proportional: logits += log(size of the key), unless the schedule's ``proportional`` is
   false (for models that were not trained on labels, MAE off the shelf).

The tokens that leave are: prefix tokens in their order, the unmerged of A in their order, then B. No more than half of
the unprotected tokens can be merged in one block.
"""

from typing import Optional

import torch
import torch.nn.functional as functional

from tailfleet_reduce.method import Evidence, Method, Reduction, eagerly_on_cpu, gather_tokens, with_prefix


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
        self._into = _Into(target, count, metric.dtype)
        batch = metric.shape[0]
        ones = metric.new_ones(()).expand(batch, metric.shape[1])
        all_sizes = ones if size is None else size  # (B, N)
        size_b, size_source = all_sizes[:, self._first_b :: 2], all_sizes.gather(1, self._source)
        self._size = size
        self._total = self._into.add(size_b.unsqueeze(2), size_source.unsqueeze(2)).squeeze(2)  # (B, b), after merging
        self._share_b = (size_b / self._total).unsqueeze(2)  # (B, b, 1)
        self._share_source = (size_source / self._total.gather(1, target)).unsqueeze(2)  # (B, r, 1)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, C) → (B, m, C)."""
        b = x[:, self._first_b :: 2] * self._share_b.to(x.dtype)
        source = gather_tokens(x, self._source) * self._share_source.to(x.dtype)
        return torch.cat([gather_tokens(x, self._others), self._into.add(b, source)], 1)

    def sizes(self) -> torch.Tensor:
        """(B, m)."""
        if self._size is None:
            return torch.cat([self._total.new_ones(self._others.shape), self._total], 1)
        return torch.cat([self._size.gather(1, self._others), self._total], 1)

    def positions(self, positions: torch.Tensor, nowhere: int) -> torch.Tensor:
        """(B, m): what is merged into a token of B is where that is."""
        return torch.cat([positions.gather(1, self._others), positions[:, self._first_b :: 2]], 1)


class _Into:
    """To which of ``count`` (b) rows each of r rows is added: ``target`` (B, r)."""

    def __init__(self, target: torch.Tensor, count: int, dtype: torch.dtype) -> None:
        self._rows: Optional[torch.Tensor] = None
        self._matrix: Optional[torch.Tensor] = None
        if eagerly_on_cpu(target):
            first = torch.arange(len(target), device=target.device)[:, None] * count
            self._rows = (target + first).flatten()  # (B · r) among the B · b
        else:
            # A product with zeros and ones: sums by index do not survive export, and are in no fixed order on a GPU.
            rows = torch.arange(count, device=target.device)[:, None]
            self._matrix = (rows == target[:, None]).to(dtype)  # (B, b, r)

    def add(self, rows: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """``source`` (B, r, C) added to ``rows`` (B, b, C)."""
        if self._matrix is not None:
            return torch.baddbmm(rows, self._matrix.to(rows.dtype), source)
        assert self._rows is not None
        return rows.flatten(0, 1).index_add(0, self._rows, source.flatten(0, 1)).reshape(rows.shape)
