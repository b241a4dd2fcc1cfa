"""Top-K: keep the patches that the class token attends to most.

``score_j = mean_h S[h, CLS, j]`` over patch tokens; the highest stay, in order of score. Without a class token the
score is the mean over all query rows. The class token's row alone is computed beside fused attention.
"""

import torch

from tailfleet_reduce.method import Evidence, Method, Selection, with_prefix


class TopK(Method):
    """Selection by the class token's attention; dropped tokens leave no trace, so sizes stay one each."""

    name = "topk"

    def needs_probabilities(self, has_class_token: bool) -> bool:
        """Only without a class token."""
        return not has_class_token

    def plan(self, evidence: Evidence, kept: int) -> Selection:
        """Keep the prefix and the ``kept - prefix`` best patches."""
        chosen = scores(evidence).topk(kept - evidence.prefix, dim=1).indices  # (B, kept - P)
        return Selection(with_prefix(chosen, evidence.prefix))


def scores(evidence: Evidence) -> torch.Tensor:
    """Score of each patch token, (B, N - P) fp32."""
    if evidence.has_class_token:
        row = evidence.class_row().mean(1)  # (B, N)
    else:
        row = evidence.summed_up(lambda s, _: s.mean(1).mean(1))
    return row[:, evidence.prefix :]
