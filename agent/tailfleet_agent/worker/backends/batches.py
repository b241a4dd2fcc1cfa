"""Predictions of a runtime whose graphs take one batch size alone: that which the workload is timed with."""

from typing import Any, Callable

import numpy as np


def in_batches(images: Any, batch: int, run: Callable[[Any], Any]) -> Any:
    """What ``run`` makes of ``images`` (n, …), ``batch`` at a time, as one array (n, …).

    The last batch is filled up with its last image; what comes of the filling is dropped.
    """
    made = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        missing = batch - len(part)
        filled = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
        # A copy: a runtime may write its next answer where this one lies.
        made.append(np.array(run(filled), dtype=np.float32)[: len(part)])
    return np.concatenate(made)
