"""``tailfleet dataset``: register folders of images, labelled or not, and list them."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import pandas
import typer

from tailfleet_coordinator.cli.bar import bars
from tailfleet_coordinator.cli.show import fleet, say, table
from tailfleet_coordinator.library.datasets import read_class_index
from tailfleet_coordinator.library.splits import CALIBRATION_SHARE, amount_of
from tailfleet_schema.workload import DatasetSpec

app = typer.Typer(help="Register and list images to judge models on.", no_args_is_help=True)


@app.command("list")
def list_datasets() -> None:
    """Every set of images; one of 0 classes has no labels."""
    frame = fleet().datasets()
    table("datasets", frame.assign(sha256=frame["sha256"].str[:12]), "no dataset is registered")


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What the images will be called.")],
    path: Annotated[Path, typer.Argument(help="A folder that holds one folder of images for each class.")],
    calibration: Annotated[
        str | None,
        typer.Option(metavar="N|SHARE", help="Images, or a share of them, that plans look at; default: a third."),
    ] = None,
    evaluation: Annotated[
        str | None, typer.Option(metavar="N|SHARE", help="Images that plans are judged on; default: all others.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides which image goes where.")] = 0,
    class_index: Annotated[
        Path | None,
        typer.Option(help="JSON object of folder to label, where the folders are a part of a model's classes."),
    ] = None,
    no_labels: Annotated[
        bool,
        typer.Option(
            "--no-labels",
            help="Folders are no classes: models are judged by how often a reduced one agrees with the dense one.",
        ),
    ] = False,
    index_only: Annotated[
        bool, typer.Option("--index-only", help="Send no images: each board names a folder that holds them.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Let the name mean these images from now on.")] = False,
) -> None:
    """Register a folder of images: one folder a class, labels in the order of the folders' names.

    With --no-labels, every image below the folder. The images of every class are divided into calibration and
    evaluation in the same proportion; no image, whatever its name, is in both. They are sent as they are and decoded on
    the boards.
    """
    with bars() as progress:
        added, notes = fleet().add_dataset(
            name,
            path,
            calibration=CALIBRATION_SHARE if calibration is None else amount_of(calibration),
            evaluation=None if evaluation is None else amount_of(evaluation),
            seed=seed,
            class_index=None if class_index is None else read_class_index(class_index),
            index_only=index_only,
            replace=replace,
            progress=progress,
            labels=not no_labels,
        )
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    spec = added.dataset
    say(
        f"dataset {name} {'is registered' if added.new else 'was registered already'}: {_classes(spec)},"
        f" {spec.calibration_images} calibration and {spec.evaluation_images} evaluation images"
    )
    if index_only:
        say(f"no images were sent; on every board: tailfleet-agent dataset {name} FOLDER")
        weighed = "agreement" if no_labels else "accuracy"
        say(f"plans that weigh {weighed} need them here, too: tailfleet up --dataset {name}=FOLDER")


@app.command()
def show(name: Annotated[str, typer.Argument(help="A dataset's name.")]) -> None:
    """What a dataset is, and how many images of each class it has."""
    here = fleet()
    spec, index = here.dataset(name), here.dataset_index(name)
    say(f"dataset: {spec.name}")
    say(f"sha256: {spec.sha256}")
    say(f"form: {spec.form}")
    say(f"source: {spec.source}")
    if index is None or not spec.labelled:
        say(f"{_classes(spec)}, {spec.calibration_images} calibration, {spec.evaluation_images} evaluation images")
    if index is None:
        return
    say(f"pack: {spec.pack_sha256 or f'none: each board names a folder: tailfleet-agent dataset {name} FOLDER'}")
    if not spec.labelled:
        say("models are judged by how often a reduced one answers as the dense one does")
        return
    counts = Counter((file.label, file.split) for file in index.files)
    frame = pandas.DataFrame(
        [
            (label, title, counts[label, "calibration"], counts[label, "evaluation"])
            for label, title in enumerate(index.classes)
            if title
        ],
        columns=["label", "class", "calibration", "evaluation"],
    )
    table("classes", frame, "there are no classes")


def _classes(spec: DatasetSpec) -> str:
    return f"{spec.classes} classes" if spec.labelled else "no labels"
