"""Where tokens lie in the image, as far as attention computes with it.

Most families add positions to the tokens once; then attention knows nothing of them, and :class:`Placeless` is all
there is. Where attention itself rotates queries and keys, or adds a bias for each pair of places, what it uses has
to follow the tokens that are kept (``TokenState.positions``).
"""

from typing import Optional, Tuple

import torch

from tailfleet_reduce.method import TokenState


class Placeless:
    """Attention that does not know where its tokens lie."""

    plain = True
    """Whether attention needs nothing from here."""

    def rotated(self, q: torch.Tensor, k: torch.Tensor, state: TokenState) -> Tuple[torch.Tensor, torch.Tensor]:
        """Queries and keys, (B, H, N, d) each, turned by the places of their tokens."""
        return q, k

    def bias(self, x: torch.Tensor, state: TokenState) -> Optional[torch.Tensor]:
        """What is added to the logits of the tokens ``x`` (B, N, C), broadcastable to (B, H, N, N); None: nothing."""
        return None
