"""A registered model under a schedule becomes a file: the model as boards build it, the file as the library writes it.

One order in, one reply out; see ``DeployOrder``. Where the weights come from is left to who asks: the coordinator's
command line, which imports no torch.
"""

import torch

from tailfleet_agent.worker import models
from tailfleet_reduce import export
from tailfleet_schema.messages import DeployOrder, DeployReply

SEED = 0
"""Of random weights, where a model has no others."""


def deploy(order: DeployOrder) -> DeployReply:
    """Build, reduce, write, check. Raises what building a model and ``tailfleet_reduce.export`` raise; then there is no
    file."""
    # Before weights are read: what is missing here, or no format.
    export.check_installed(order.format)
    order.schedule.check_fits(order.model.name, order.model.geometry)
    model = models.build(order.model, order.artifacts, SEED)
    done = export.export(
        model,
        order.schedule,
        order.out,
        order.format,
        order.batch,
        order.dtype,
        export.OPSET if order.opset is None else order.opset,
        order.model.name,
    )
    checked = done.checked
    return DeployReply(done.bytes, checked.difference, checked.images, checked.by, "torch {}".format(torch.__version__))
