"""What every token reduction method is given, what it answers, and what travels from block to block.

A method looks at one block's attention (:class:`Evidence`) and answers which tokens stay and which are joined
(:class:`Reduction`); it never touches ``x`` itself, so that a block can apply the answer where it is cheapest.
Running the attention is left to :mod:`tailfleet_reduce.anatomy`.
"""

from typing import Optional

import torch

from tailfleet_schema.schedule import PLACEMENT


class Evidence:
    """The attention of one block, as a method may look at it. Costly parts are computed when asked for, once."""

    def __init__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        scale: float,
        bias: Optional[torch.Tensor],
        prefix: int,
        has_class_token: bool,
        sizes: Optional[torch.Tensor],
    ) -> None:
        self.q = q  # (B, H, N, d), normed where the model norms it, not scaled
        self.k = k  # (B, H, N, d), normed where the model norms it
        self.v = v  # (B, H, N, d)
        self.scale = scale
        self.bias = bias  # (B, 1, 1, N) added to the logits, or None
        self.prefix = prefix
        self.has_class_token = has_class_token
        self.sizes = sizes  # (B, N) fp32: how many input tokens each token stands for; None: one each
        self._probabilities: Optional[torch.Tensor] = None

    def probabilities(self) -> torch.Tensor:
        """S = softmax(q kᵀ · scale + bias) over keys, (B, H, N, N); at least fp32, so that sums keep their order."""
        if self._probabilities is None:
            self._probabilities = self._rows(self.q)
        return self._probabilities

    def class_row(self) -> torch.Tensor:
        """The class token's row of S, (B, H, N), without the other rows."""
        return self._rows(self.q[:, :, :1])[:, :, 0]

    def _rows(self, q: torch.Tensor) -> torch.Tensor:
        logits = (q * self.scale) @ self.k.transpose(-2, -1)  # (B, H, rows, N)
        if self.bias is not None:
            logits = logits + self.bias
        return logits.softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))


class Reduction:
    """Which tokens of N stay: a linear map over tokens, whose weights sum to one for each token that leaves."""

    def selected(self) -> Optional[torch.Tensor]:
        """Positions (B, m) of the tokens that leave, where they are only selected; None where some are joined."""
        return None

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, C) → (B, m, C), prefix tokens first."""
        raise NotImplementedError

    def sizes(self) -> Optional[torch.Tensor]:
        """How many input tokens each of the m stands for, (B, m) fp32; None: one each."""
        raise NotImplementedError


class Method:
    """One way to reduce tokens; holds no state, so that one instance serves every block and model."""

    name = ""
    proportional = False
    """Whether later blocks add the logarithm of a token's size to its attention logits."""

    @property
    def placement(self) -> str:
        """Where in a block it reduces: ``mid`` or ``after``."""
        return PLACEMENT[self.name]

    def needs_probabilities(self, has_class_token: bool) -> bool:
        """Whether it reads the whole of S; its block then pays for explicit attention, and no other does."""
        raise NotImplementedError

    def plan(self, evidence: Evidence, kept: int) -> Reduction:
        """Decide for each image on its own which ``kept`` tokens leave the block.

        ``kept`` lies between what ``tailfleet_schema.schedule.smallest_reachable`` allows and one less than
        arrive; schedules are checked for that.
        """
        raise NotImplementedError


class TokenState:
    """What one forward pass carries from block to block beside ``x``."""

    def __init__(self) -> None:
        self.sizes: Optional[torch.Tensor] = None  # (B, N) fp32, or None: one each
        self.wanted = True
        """Whether any later block reads sizes; where none does, they are not computed."""
        self._follows = False

    @classmethod
    def sized(cls, sizes: torch.Tensor) -> "TokenState":
        """As after a reduction whose tokens stand for ``sizes`` (B, N) fp32, which attention follows."""
        state = cls()
        state.sizes, state._follows = sizes, True
        return state

    @property
    def proportional(self) -> bool:
        """Whether attention has to follow the sizes of its keys."""
        return self._follows and self.sizes is not None

    def attention_bias(self, dtype: torch.dtype) -> Optional[torch.Tensor]:
        """log(size) as a mask (B, 1, 1, N) for the attention logits, or None where attention is plain."""
        if self.sizes is None or not self._follows:
            return None
        return self.sizes.log().to(dtype)[:, None, None]

    def reduced(self, method: Method, reduction: Reduction) -> None:
        """``method`` has reduced the tokens."""
        self._follows = method.proportional
        self.sizes = reduction.sizes() if self.wanted else None


def gather_tokens(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Tokens of ``x`` (B, N, C) at ``index`` (B, m) → (B, m, C)."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def with_prefix(patches: torch.Tensor, prefix: int) -> torch.Tensor:
    """Positions among all tokens, prefix tokens first, of those at ``patches`` (B, m) among the patch tokens."""
    if not prefix:
        return patches
    first = torch.arange(prefix, device=patches.device).expand(patches.shape[0], -1)
    return torch.cat([first, patches + prefix], 1)
