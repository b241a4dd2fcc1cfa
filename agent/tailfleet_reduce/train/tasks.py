"""What queries are trained for: how many there are, and what is asked of them and of the model's own output.

Images and labels are the caller's, as are heads for anything but classification.
"""

from typing import Any, Sequence

import torch
import torch.nn.functional as functional

from tailfleet_schema.errors import InputError


class Task:
    """``queries`` for each block that is scored, each with logits of ``classes``."""

    queries = 1

    def __init__(self, classes: int) -> None:
        if classes < 1:
            raise InputError("a task needs at least one class, not {}".format(classes))
        self.classes = classes

    def auxiliary_loss(self, logits: torch.Tensor, targets: Any) -> torch.Tensor:
        """Of one scorer's ``logits`` (B, M, K)."""
        raise NotImplementedError

    def main_loss(self, outputs: Any, targets: Any) -> torch.Tensor:
        """Of what the model's head gives."""
        raise NotImplementedError


class Classification(Task):
    """One query and cross-entropy. Targets: int64 (B,). Outputs: logits (B, K)."""

    def auxiliary_loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See ``Task``."""
        return functional.cross_entropy(logits[:, 0], targets)

    def main_loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See ``Task``."""
        return functional.cross_entropy(outputs, targets)


class Segmentation(Task):
    """One query for each of ``grid`` × ``grid`` patches, and cross-entropy on labels of their middle pixels.

    Targets: int64 (B, S, S), where ``ignore`` counts nowhere. Outputs: logits (B, K, S, S).
    """

    def __init__(self, classes: int, grid: int, ignore: int = -100) -> None:
        super().__init__(classes)
        self.queries = grid * grid
        self._grid = grid
        self._ignore = ignore

    def auxiliary_loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See ``Task``. Raises ``InputError`` for labels that are no multiple of the grid."""
        return self._loss(logits.transpose(1, 2), self.downsampled(targets))

    def main_loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See ``Task``."""
        return self._loss(outputs, targets)

    def downsampled(self, labels: torch.Tensor) -> torch.Tensor:
        """Labels of pixels (B, S, S) → of patches, row by row, (B, grid²)."""
        side = labels.shape[1]
        if labels.shape[2] != side or side % self._grid:
            raise InputError(
                "labels of {} × {} pixels cannot be divided into {} × {} patches".format(
                    labels.shape[1], labels.shape[2], self._grid, self._grid
                )
            )
        step = side // self._grid
        return labels[:, step // 2 :: step, step // 2 :: step].flatten(1)

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean over labels (B, …) that count, of ``logits`` (B, K, …); 0 where none does."""
        summed = functional.cross_entropy(logits, labels, ignore_index=self._ignore, reduction="sum")
        return summed / (labels != self._ignore).sum().clamp(min=1)


class Detection(Task):
    """One query, and binary cross-entropy on which classes are there.

    Targets: for each image a mapping with ``labels``, int64 (n,), of its n boxes, as torchvision's detectors take it;
    what else it holds is the detector's. Outputs: the loss or losses that the detector gives with them, summed here:
    a tensor, or a mapping of names to tensors.
    """

    def auxiliary_loss(self, logits: torch.Tensor, targets: Sequence[Any]) -> torch.Tensor:
        """See ``Task``. Raises ``InputError`` for a label that is no class."""
        return functional.binary_cross_entropy_with_logits(logits[:, 0], self.present(targets).to(logits))

    def main_loss(self, outputs: Any, targets: Sequence[Any]) -> torch.Tensor:
        """See ``Task``."""
        losses = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs.values())
        return torch.stack([loss.sum() for loss in losses]).sum()

    def present(self, targets: Sequence[Any]) -> torch.Tensor:
        """Which classes are among each image's boxes, (B, K) bool."""
        found = torch.zeros(len(targets), self.classes, dtype=torch.bool)
        for row, target in zip(found, targets):
            labels = target["labels"].cpu()
            if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
                raise InputError("labels of boxes must lie between 0 and {}".format(self.classes - 1))
            row[labels] = True
        return found
