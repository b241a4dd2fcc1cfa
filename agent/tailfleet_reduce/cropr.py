"""Token Cropr (arXiv 2412.00965): keep what learned queries attend to, measured on what a block leaves.

``A = Q Xᵀ`` with learned queries Q (M, C), one head, no projections, no norm; a token's score is its sum over queries.
A sum of products is the product with the sum, so the queries are folded into one vector, q̄ = Σ Q, before anything
runs: scoring is O(N). The highest stay, in order of score. With ``restore_before`` in the schedule all tokens come back
before the last block (last-layer fusion). Training the queries is left to ``tailfleet_reduce.train``.
"""

from typing import Any, Dict, Mapping, cast

import torch

from tailfleet_reduce.method import Evidence, Method, Selection, with_prefix
from tailfleet_schema.errors import ScheduleError
from tailfleet_schema.schedule import Schedule


class Cropr(Method):
    """Selection by the folded queries of each block, ``{block: (C,)}``."""

    name = "cropr"
    reads_attention = False

    def __init__(self, queries: Mapping[int, torch.Tensor]) -> None:
        super().__init__()
        self._names: Dict[int, str] = {}
        for block, query in queries.items():
            self._names[block] = "query_{}".format(block)
            # In the precision that scores are computed in, whatever the model's is.
            self.register_buffer(self._names[block], query.detach().float(), persistent=False)

    def _apply(self, fn: Any, *rest: Any) -> "Cropr":
        # A model that is cast as a whole takes its buffers along; queries follow its device, not its precision.
        held = {name: cast(torch.Tensor, getattr(self, name)) for name in self._names.values()}
        cast(Any, super())._apply(fn, *rest)
        for name, query in held.items():
            setattr(self, name, query.to(cast(torch.Tensor, getattr(self, name)).device))
        return self

    def check(self, schedule: Schedule) -> None:
        """Raise ``ScheduleError`` unless there are queries for every block that reduces."""
        missing = sorted(set(schedule.reducing_blocks) - set(self._names))
        if missing:
            raise ScheduleError(
                "no Cropr queries are known for block {}; known are those of {}".format(
                    missing[0], ", ".join(map(str, sorted(self._names))) or "no block"
                ),
                "train them: tailfleet model train-cropr",
            )

    def plan(self, evidence: Evidence, kept: int) -> Selection:
        """Keep the prefix and the ``kept - prefix`` best patches."""
        query = getattr(self, self._names[evidence.block])
        # In half precision close scores would tie, and large ones overflow.
        score = evidence.x[:, evidence.prefix :].float() @ query  # (B, N - P)
        chosen = score.topk(kept - evidence.prefix, dim=1).indices  # (B, kept - P)
        return Selection(with_prefix(chosen, evidence.prefix))
