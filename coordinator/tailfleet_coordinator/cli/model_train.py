"""``tailfleet model train-cropr``: teach a model which of its tokens can go.

What is trained, and how, is said in one order to a child with torch; see ``library.training``.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import numpy
import typer

from tailfleet_coordinator import bundled
from tailfleet_coordinator.cli.bar import bars, epochs
from tailfleet_coordinator.cli.schedule import from_file
from tailfleet_coordinator.cli.show import fleet, runs, say
from tailfleet_coordinator.library import training
from tailfleet_schema import codec
from tailfleet_schema.errors import InputError, InternalError
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.training import Judged, TrainOrder, state_path
from tailfleet_schema.workload import ModelSpec

INTERRUPTED = 130


def train_cropr(
    model: Annotated[str, typer.Argument(help="A bundled model, or one that the coordinator knows.")],
    dataset: Annotated[
        str, typer.Option(metavar="NAME|FOLDER", help="A bundled dataset, or a folder of one folder a class.")
    ],
    out: Annotated[Path, typer.Option(help="Where to write weights and queries (.npz).")],
    keep: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Tokens that blocks see on average; a constant drop does it.")
    ] = None,
    drop: Annotated[int | None, typer.Option(min=1, help="Or so many tokens leave after each block …")] = None,
    schedule: Annotated[str | None, typer.Option(metavar="FILE", help="… or as this schedule says.")] = None,
    fusion: Annotated[
        bool, typer.Option(help="All tokens come back before the last block (last-layer fusion).")
    ] = False,
    fine_tune: Annotated[
        bool, typer.Option(help="Train the model's own weights, too, or leave them as they are.")
    ] = True,
    epochs_: Annotated[int, typer.Option("--epochs", min=1, help="Times that each image is seen.")] = 10,
    batch: Annotated[int, typer.Option(min=1, help="Images a step.")] = 64,
    seed: Annotated[int, typer.Option(help="Decides all that is drawn at random.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted training stands.")] = False,
    add: Annotated[str | None, typer.Option(metavar="NAME", help="Register the result under this name.")] = None,
) -> None:
    """Train the queries by which method cropr selects tokens; torch and timm must be installed here.

    A fifth of a folder's images is held out; of a bundled dataset the calibration images are. What a model makes of
    them before and after is printed at the end.
    """
    if out.suffix != ".npz" or out.is_dir():
        raise InputError(f"--out {out} is no file whose name ends in .npz")
    if sum(one is not None for one in (keep, drop, schedule)) != 1:
        raise InputError("say how many tokens leave by one of --keep, --drop and --schedule")
    if add is not None and any(known == add for known in fleet().models()["name"]):
        raise InputError(f"there is a model {add!r} already", "name another with --add")
    given = None if schedule is None else from_file(schedule)
    with bars() as progress:
        images = training.images(dataset, seed, progress)
    for note in images.notes:
        typer.echo(f"note: {note}", err=True)
    spec = _model(model)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tailfleet-train-") as folder:
        Path(folder, images.spec.sha256).write_bytes(images.content)
        _fetch_weights(spec, Path(folder))
        order = TrainOrder(
            model=spec,
            dataset=images.spec,
            artifacts=folder,
            split=images.split,
            out=str(out.resolve()),
            folder=None if images.folder is None else str(images.folder),
            schedule=given,
            keep_share=keep,
            drop=drop,
            fusion=fusion,
            fine_tune=fine_tune,
            epochs=epochs_,
            batch=batch,
            seed=seed,
            resume=resume,
        )
        trained, judged = _run(order, out)
    file = out.with_suffix(".schedule.json")
    if add is not None:
        trained = codec.loads(Schedule, codec.dumps({**codec.encode(trained), "model": add}))
    file.write_text(codec.dumps(trained) + "\n")
    share = sum(trained.entering) / (trained.tokens * len(trained.keep))
    say(
        f"top-1 on {judged.images} calibration images: dense {judged.dense:.1f} %,"
        f" with {100 * share:.0f} % of the tokens {judged.pruned:.1f} %"
    )
    say(f"weights and queries: {out}; schedule: {file}")
    if add is None:
        say(f"to register it: tailfleet model add NAME --like {model} --checkpoint {out}")
        say(f'the schedule is for {model}; for NAME, change its "model", or train with --add NAME')
        return
    with bars() as progress:
        fleet().add_model(
            add,
            spec.architecture,
            arguments=spec.arguments,
            checkpoint=out,
            dataset=spec.dataset,
            preprocessing=spec.preprocessing,
            progress=progress,
        )
    say(f"model {add} is registered; its schedule: tailfleet schedule add {file}")


def _run(order: TrainOrder, out: Path) -> tuple[Schedule, Judged]:
    trained: Schedule | None = None
    judged: Judged | None = None
    try:
        with epochs(order.epochs) as tell:
            for event in training.events(order):
                judged = event.judged
                if event.schedule is not None:
                    trained = event.schedule
                    say(f"tokens that leave each block, of {trained.tokens}: {runs(trained.keep)}")
                losses = [] if event.auxiliary_loss is None else [f"loss of queries {event.auxiliary_loss:.3f}"]
                losses += [] if event.main_loss is None else [f"of the model {event.main_loss:.3f}"]
                tell(event.epochs_done, ", ".join(losses))
    except KeyboardInterrupt:
        state = Path(state_path(str(out)))
        if state.exists():
            with numpy.load(state, allow_pickle=False) as held:
                done = int(held["epoch"])
            say(f"interrupted; {done} of {order.epochs} epochs are kept: the same command with --resume goes on")
        else:
            say("interrupted before the end of an epoch; nothing is kept")
        raise typer.Exit(INTERRUPTED) from None
    if trained is None or judged is None:
        raise InternalError("the child that trains says neither schedule nor result")
    return trained, judged


def _model(name: str) -> ModelSpec:
    for spec in bundled.models():
        if spec.name == name:
            return spec
    return fleet().model(name)


def _fetch_weights(spec: ModelSpec, folder: Path) -> None:
    if spec.checkpoint_sha256 is None:
        return
    if spec.name in bundled.MODEL_NAMES:
        (folder / spec.checkpoint_sha256).write_bytes(bundled.checkpoint_bytes())
        return
    with bars() as progress:
        fleet().download(spec.checkpoint_sha256, folder / spec.checkpoint_sha256, progress)
