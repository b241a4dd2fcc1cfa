"""Semantic segmentation on a vision transformer's tokens: a linear head for each patch, and how well it does.

Every patch token that leaves the last block, after the final norm, is mapped to the classes of its own pixels, and the
patches are laid side by side to an image again. A reduced backbone has to put its dropped tokens back, in grid order,
before its last block. Training is left to others.
"""

from typing import Any, Optional, Union, cast

import torch
from torch import nn

from tailfleet_reduce.anatomy import Anatomy
from tailfleet_reduce.apply import ReducedModel
from tailfleet_schema.errors import InputError, ScheduleError


class PatchSegmenter(nn.Module):
    """A vision transformer and a linear head for each patch: images (B, c, S, S) → logits (B, K, S, S).

    With ``head``, that head is shared, as when one trained head serves the dense backbone and its reduced ones.
    """

    def __init__(self, backbone: Union[Anatomy, ReducedModel], classes: int, head: Optional[nn.Linear] = None) -> None:
        super().__init__()
        anatomy = backbone if isinstance(backbone, Anatomy) else backbone.anatomy
        geometry = anatomy.geometry()
        self.backbone = backbone.model if isinstance(backbone, Anatomy) else backbone
        self.classes = classes
        self.patch_size = geometry.patch_size
        self.grid = geometry.image_size // geometry.patch_size
        width = classes * self.patch_size**2
        if head is None:
            head = nn.Linear(geometry.dim, width)
        elif (head.in_features, head.out_features) != (geometry.dim, width):
            raise InputError(
                "the head maps {} channels to {} values; patches of {} × {} pixels in {} classes need {} to {}".format(
                    head.in_features, head.out_features, self.patch_size, self.patch_size, classes, geometry.dim, width
                )
            )
        self.head = head
        self.anatomy = anatomy
        self._prefix = geometry.prefix
        self.training = anatomy.model.training  # not train(), which would thaw what the user froze within the model
        if isinstance(backbone, ReducedModel) and backbone.schedule.keep[-1] != geometry.tokens:
            raise _unlabelled(backbone.schedule.keep[-1] - geometry.prefix, self.grid**2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, K, S, S). Raises ``ScheduleError`` where not all patches reach the head."""
        if isinstance(self.backbone, ReducedModel):
            x = self.backbone.forward_tokens(images)
        else:
            x = self.anatomy.embed(images)
            state = self.anatomy.state()
            for block in self.anatomy.blocks:
                x = block.whole(x, state)
        if x.shape[1] != self._prefix + self.grid**2:
            raise _unlabelled(x.shape[1] - self._prefix, self.grid**2)
        return self.unpatch(self.patch_logits(x[:, self._prefix :]))

    def patch_logits(self, patches: torch.Tensor) -> torch.Tensor:
        """Patch tokens of the last block (B, n, C) → logits of their pixels (B, n, K, p, p); any n of the patches."""
        p = self.patch_size
        return cast(torch.Tensor, self.head(cast(Any, self.anatomy.model).norm(patches))).reshape(
            patches.shape[0], patches.shape[1], self.classes, p, p
        )

    def unpatch(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits of all patches, row by row, (B, N, K, p, p) → (B, K, S, S)."""
        batch, g, p = logits.shape[0], self.grid, self.patch_size
        laid = logits.reshape(batch, g, g, self.classes, p, p).permute(0, 3, 1, 4, 2, 5)  # (B, K, g, p, g, p)
        return laid.reshape(batch, self.classes, g * p, g * p)


def patch_labels(labels: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Labels of pixels (B, S, S) → of each patch's pixels, row by row, (B, N, p, p)."""
    batch, side = labels.shape[0], labels.shape[1] // patch_size
    apart = labels.reshape(batch, side, patch_size, side, patch_size).permute(0, 1, 3, 2, 4)
    return apart.reshape(batch, side * side, patch_size, patch_size)


def confusions(
    predicted: torch.Tensor, labels: torch.Tensor, classes: int, ignore: Optional[int] = None
) -> torch.Tensor:
    """How often each image has a pixel of class i called class j: (B, K, K) int64, from two (B, S, S) of class numbers.

    Pixels labelled ``ignore`` count nowhere. Raises ``InputError`` for other shapes, or numbers that are no class.
    """
    if predicted.shape != labels.shape or labels.dim() < 2:
        raise InputError(
            "predictions {} and labels {} must be class numbers of the same pixels".format(
                tuple(predicted.shape), tuple(labels.shape)
            )
        )
    batch = labels.shape[0]
    predicted, labels = predicted.reshape(batch, -1).long(), labels.reshape(batch, -1).long()
    counted = torch.ones_like(labels, dtype=torch.bool) if ignore is None else labels != ignore
    for what, numbers in (("predictions", predicted[counted]), ("labels", labels[counted])):
        if numbers.numel() and not 0 <= int(numbers.min()) <= int(numbers.max()) < classes:
            raise InputError("{} must lie between 0 and {}".format(what, classes - 1))
    image = torch.arange(batch, device=labels.device)[:, None].expand_as(labels)
    cell = (image * classes + labels) * classes + predicted
    counts = torch.bincount(cell[counted], minlength=batch * classes * classes)
    return counts.reshape(batch, classes, classes)


def mean_iou_of(confusion: torch.Tensor) -> float:
    """Mean over classes of intersection / union, of one confusion matrix (K, K) or the sum of several (…, K, K).

    A class that was neither there nor predicted is left out of the mean; nan where that leaves none.
    """
    summed = confusion.reshape(-1, *confusion.shape[-2:]).sum(0).double()
    both = summed.diagonal()
    union = summed.sum(0) + summed.sum(1) - both
    seen = union > 0
    return float((both[seen] / union[seen]).mean())


def mean_iou(predicted: torch.Tensor, labels: torch.Tensor, classes: int, ignore: Optional[int] = None) -> float:
    """Mean intersection over union of two (B, S, S) of class numbers, over all their pixels together, 0 … 1.

    Pixels labelled ``ignore`` count nowhere. Raises ``InputError`` as ``confusions`` does.
    """
    return mean_iou_of(confusions(predicted, labels, classes, ignore))


def _unlabelled(reaching: int, patches: int) -> ScheduleError:
    return ScheduleError(
        "{} of {} patches reach the head, but each has pixels to be labelled".format(reaching, patches),
        "use a schedule that restores the tokens before the last block (restore_before)",
    )
