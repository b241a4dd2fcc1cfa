"""``tailfleet model export``: a registered model under a schedule as a file for whatever runs it."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tailfleet_coordinator.cli.bar import bars
from tailfleet_coordinator.cli.schedule import from_file
from tailfleet_coordinator.cli.show import fleet, runs, say
from tailfleet_coordinator.client import Fleet, weights_in_words
from tailfleet_coordinator.library.deploy import DTYPES, FORMATS, deploy, form_of
from tailfleet_schema.errors import InputError
from tailfleet_schema.schedule import Schedule, dense, flops
from tailfleet_schema.workload import ModelSpec, Preprocessing

LEAST_DIGEST = 4
"""Characters of a digest that tell a schedule from a slip of the pen."""


def export(
    model: Annotated[str, typer.Argument(help="A registered model's name.")],
    out: Annotated[Path, typer.Option(help="The file to write, such as model.onnx.")],
    schedule: Annotated[
        str | None,
        typer.Option(metavar="FILE|DIGEST|dense", help="A schedule as JSON (- for standard input), or a stored one."),
    ] = None,
    campaign: Annotated[str | None, typer.Option(help="Or the schedule that this campaign planned …")] = None,
    board: Annotated[str | None, typer.Option(help="… for this board …")] = None,
    method: Annotated[str | None, typer.Option(help="… with this method, where it planned several.")] = None,
    form: Annotated[
        str | None, typer.Option("--format", metavar="|".join(FORMATS), help="Default: as the file's name ends.")
    ] = None,
    batch: Annotated[str, typer.Option(metavar="N|any", help="Images a call.")] = "1",
    dtype: Annotated[str, typer.Option(metavar="|".join(DTYPES), help="What it computes in.")] = "fp32",
    opset: Annotated[
        int | None, typer.Option(help="Of ONNX; default 18, which most runtimes read. From 23 on attention is fused.")
    ] = None,
) -> None:
    """Write the pruned model for deployment, and check the file against eager PyTorch.

    torch and timm must be installed here, and for ONNX onnx, onnxscript and onnxruntime.
    """
    here = fleet()
    spec = here.model(model)
    chosen = _schedule(here, spec, schedule, campaign, board, method)
    chosen.check_fits(spec.name, spec.geometry)
    wanted = form_of(out, form)
    with tempfile.TemporaryDirectory(prefix="tailfleet-export-") as folder:
        if spec.checkpoint_sha256 is not None:
            with bars() as progress:
                here.download(spec.checkpoint_sha256, Path(folder, spec.checkpoint_sha256), progress)
        say(f"writing {out} and checking it against eager PyTorch")
        done = deploy(spec, chosen, out, Path(folder), form=wanted, batch=_batch(batch), dtype=dtype, opset=opset)
    say(f"wrote {out}: {done.bytes / 1e6:.1f} MB, {wanted}, {dtype}, by {done.written_by}")
    share = flops(chosen, spec.geometry) / flops(dense(spec.name, spec.geometry), spec.geometry)
    say(f"method {chosen.method}, {share:.0%} of the dense model's multiply-adds")
    say(f"tokens that leave each block, of {chosen.tokens}: {runs(chosen.keep)}")
    say(
        f"its logits differ from eager's by {done.difference:.1g} at most"
        f" ({done.images} random images, {done.checked_by})"
    )
    if weights_in_words(spec) == "random":
        say("its weights are random: its latency is real, what it says is not")
    _say_how_to_run(spec, out, wanted, batch)


def _schedule(
    here: Fleet, spec: ModelSpec, text: str | None, campaign: str | None, board: str | None, method: str | None
) -> Schedule:
    if (text is None) == (campaign is None):
        raise InputError("which schedule is meant?", "give one of --schedule and --campaign")
    if campaign is not None:
        return _planned(here, spec, campaign, board, method)
    assert text is not None
    if board is not None or method is not None:
        raise InputError("--board and --method choose among a campaign's schedules", "leave them out with --schedule")
    if text == "dense":
        return dense(spec.name, spec.geometry)
    hexadecimal = len(text) >= LEAST_DIGEST and not set(text) - set("0123456789abcdef")
    if hexadecimal and not Path(text).exists():
        return here.schedule(text)
    return from_file(text)


def _planned(here: Fleet, spec: ModelSpec, campaign: str, board: str | None, method: str | None) -> Schedule:
    """The one schedule that ``campaign`` planned for the model. Raises ``InputError`` for several and for none."""
    here.campaign(campaign)
    frame = here.schedules(board=board, model=spec.name, campaign=campaign)
    digests = list(dict.fromkeys(frame["digest"]))
    found = [one for one in map(here.schedule, digests) if method in (None, one.method)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(
            f"campaign {campaign} planned no such schedule for {spec.name!r}", f"tailfleet campaign report {campaign}"
        )
    told = ", ".join(f"{one.digest[:12]} ({one.method})" for one in found)
    raise InputError(
        f"campaign {campaign} planned {len(found)} schedules for {spec.name!r}: {told}",
        "choose one: --schedule DIGEST, or --board and --method",
    )


def _batch(text: str) -> int | None:
    if text == "any":
        return None
    if not text.isdecimal():
        raise InputError(f"--batch {text!r} is neither a number nor any", "--batch 1, or --batch any")
    return int(text)


def _say_how_to_run(spec: ModelSpec, out: Path, form: str, batch: str) -> None:
    size = spec.geometry.image_size
    images = f"images (B, {spec.geometry.channels}, {size}, {size}) float32, B {batch}"
    say(f"run it: {images}{_normalised(spec.preprocessing)}")
    if form == "onnx":
        say(f'  onnxruntime.InferenceSession("{out}").run(["logits"], {{"images": images}})[0]')
    else:
        say(f'  torch.export.load("{out}").module()(images)')


def _normalised(preprocessing: Preprocessing | None) -> str:
    if preprocessing is None:
        return ""
    mean, std = (" ".join(f"{value:g}" for value in values) for values in (preprocessing.mean, preprocessing.std))
    return f", (pixels in 0 … 1 − mean {mean}) / std {std}"
