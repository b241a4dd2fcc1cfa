"""Train the queries by which method ``cropr`` selects tokens.

::

    import numpy
    from torch.utils.data import DataLoader
    from tailfleet_reduce import apply, dissect
    from tailfleet_reduce.train import Classification, Settings, arrays, for_share, train

    schedule = for_share("my_vit", dissect(model).geometry(), 0.5)
    queries = train(model, schedule, Classification(classes), DataLoader(images, 64, shuffle=True), Settings(epochs=10))
    reduced = apply(model, schedule)  # the model carries its queries now
    numpy.savez("my_vit_cropr.npz", **{name: array.numpy() for name, array in arrays(model, queries).items()})
"""

from tailfleet_reduce.train.schedules import constant_drop, for_share
from tailfleet_reduce.train.scorer import LearningCropr, Scorer
from tailfleet_reduce.train.tasks import Classification, Detection, Segmentation, Task
from tailfleet_reduce.train.training import Losses, Settings, Training, arrays, rate_factor, train

__all__ = [
    "Classification",
    "Detection",
    "LearningCropr",
    "Losses",
    "Scorer",
    "Segmentation",
    "Settings",
    "Task",
    "Training",
    "arrays",
    "constant_drop",
    "for_share",
    "rate_factor",
    "train",
]
