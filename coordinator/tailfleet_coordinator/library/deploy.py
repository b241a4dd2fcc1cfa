"""From a registered model and a schedule to a file to deploy: a child with torch builds, reduces, writes and checks it.

Which model and schedule, and where the weights come from, is left to the callers. Nothing of torch is imported here.
"""

from pathlib import Path

from tailfleet_coordinator.library import child
from tailfleet_schema.errors import InputError
from tailfleet_schema.messages import DeployOrder, DeployReply
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.workload import ModelSpec

CHILD = ("-m", "tailfleet_agent.worker", "deploy")

FORMATS = ("onnx", "pt2")
DTYPES = ("fp32", "fp16")


def form_of(out: Path, form: str | None) -> str:
    """The format that is meant: ``form``, else as the name of ``out`` ends. Raises ``InputError``."""
    chosen = out.suffix[1:].lower() if form is None else form
    if chosen not in FORMATS:
        told = f"--out {out}" if form is None else f"--format {form}"
        raise InputError(f"{told} names no format that is written here", f"choose {' or '.join(FORMATS)}")
    return chosen


def deploy(
    model: ModelSpec,
    schedule: Schedule,
    out: Path,
    artifacts: Path,
    *,
    form: str | None = None,
    batch: int | None = 1,
    dtype: str = "fp32",
    opset: int | None = None,
) -> DeployReply:
    """Write ``model`` under ``schedule`` to ``out``; its checkpoint lies in ``artifacts`` under its sha256.

    ``form`` is one of ``FORMATS``; None: as ``out`` ends. ``batch`` images a call; None: any number. The file is there,
    whole and checked against eager, or ``out`` is as it was. Raises ``InputError`` for what cannot be meant or written,
    and ``ConfigurationError`` where a package is missing or what was written computes something else.
    """
    order = DeployOrder(model, schedule, str(out.resolve()), str(artifacts), form_of(out, form), batch, dtype, opset)
    return child.ask(CHILD, order, DeployReply, "writes models", "torch, timm and tailfleet are")
