"""POMT as its release computes it, on a timm model: what tailfleet's own is held against. Made from its description.

Unlike :mod:`tailfleet_reduce.pomt` every block computes attention explicitly and scores all tokens, and the scores are
divided by the batch's maximum and sorted whole. Tokens leave in one block alone, like there.
"""

import torch
from torch import nn

from tailfleet_reduce import dissect


class ReleasedPomt(nn.Module):
    """``model`` with ``kept`` tokens, the pooled one included, leaving block ``block``: images → logits."""

    def __init__(self, model: nn.Module, kept: int, block: int) -> None:
        super().__init__()
        self.model = model
        self._anatomy = dissect(model)
        self._kept = kept
        self._block = block

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, K)."""
        x = self._anatomy.embed(images)  # (B, N, C)
        prefix = self._anatomy.prefix
        for number, block in enumerate(self._anatomy.blocks):
            part = block.module
            x, score = self._attention(part, x)
            if number == self._block:
                order = score.argsort(dim=1, descending=True) + prefix  # (B, N - P)
                best, rest = order[:, : self._kept - prefix - 1], order[:, self._kept - prefix - 1 :]
                pooled = _at(x, rest).mean(1, keepdim=True)
                x = torch.cat([x[:, :prefix], _at(x, best), pooled], 1)  # (B, m, C)
            x = block.mlp(x)
        return self._anatomy.head(x)

    def _attention(self, block, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The attention half, and the score of each patch, (B, N - P)."""
        attn, prefix = block.attn, self._anatomy.prefix
        batch, tokens, width = x.shape
        qkv = attn.qkv(block.norm1(x)).reshape(batch, tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)  # (B, H, N, d)
        rows = ((q * attn.scale) @ k.transpose(-2, -1)).softmax(-1)  # (B, H, N, N)
        attention = rows.amax(1)[:, prefix:, prefix:].sum(1)  # (B, N - P)
        value = v.amax(1).sum(-1).softmax(-1)[:, prefix:]
        score = attention / attention.max() + value
        joined = (rows @ v).transpose(1, 2).reshape(batch, tokens, width)
        return x + block.drop_path1(block.ls1(attn.proj(joined))), score


def _at(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
