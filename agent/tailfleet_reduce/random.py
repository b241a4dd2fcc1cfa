"""Random: keep a seeded random subset of the patches, the same for every image.

The floor that every score must beat, and the speed ceiling of any method that only drops tokens. Patches have a rank
by their place in the image, drawn once from the schedule's ``seed`` and stored as a buffer; the highest stay. So the
patches of fewer tokens are always a part of those of more, whatever blocks they leave at.
"""

import torch

from tailfleet_reduce.method import Evidence, Method, Selection, with_prefix


class Random(Method):
    """Selection by a stored rank of each of ``tokens`` places, prefix included."""

    name = "random"
    reads_positions = True

    def __init__(self, tokens: int, seed: int = 0) -> None:
        super().__init__()
        # Whole numbers: a change of the model's dtype does not touch them, so no two become equal.
        rank = torch.randperm(tokens, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("rank", rank, persistent=False)  # (tokens,) int64
        self.rank: torch.Tensor

    def plan(self, evidence: Evidence, kept: int) -> Selection:
        """Keep the prefix and the ``kept - prefix`` patches of the highest rank."""
        prefix, batch = evidence.prefix, evidence.q.shape[0]
        if evidence.positions is None:
            # The same for all images: ranked once.
            ranks = self.rank[prefix : evidence.q.shape[2]].unsqueeze(0)  # (1, N - P)
        else:
            ranks = self.rank[evidence.positions[:, prefix:]]  # (B, N - P)
        chosen = ranks.topk(kept - prefix, dim=1).indices.expand(batch, -1)  # (B, kept - P)
        return Selection(with_prefix(chosen, prefix))
