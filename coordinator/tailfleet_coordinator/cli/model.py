"""``tailfleet model``: register models of one's own, list them, and train the bundled one again.

``tailfleet model export`` is ``model_export``'s.
"""

import subprocess
from pathlib import Path
from typing import Annotated, Any

import typer

from tailfleet_coordinator import bundled
from tailfleet_coordinator.cli.bar import bars
from tailfleet_coordinator.cli.show import fleet, say, table
from tailfleet_coordinator.client import weights_in_words
from tailfleet_schema import codec
from tailfleet_schema.errors import ConfigurationError, DecodeError, InputError

app = typer.Typer(help="Register, list and export models; train the bundled one again.", no_args_is_help=True)


@app.command("list")
def list_models() -> None:
    """Every model that can be swept."""
    table("models", fleet().models(), "no model is registered")


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What the model will be called.")],
    arch: Annotated[
        str | None, typer.Option(help="timm's name of the architecture, such as vit_small_patch16_224.")
    ] = None,
    like: Annotated[
        str | None, typer.Option(help="Or a model whose architecture, images and dataset it has, with other weights.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Its weights: .safetensors, .npz, or .pt that holds tensors alone.")
    ] = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="timm's own weights, fetched here and sent to the coordinator.")
    ] = False,
    pretrained_on_board: Annotated[
        bool, typer.Option("--pretrained-on-board", help="timm's own weights, fetched by every board that runs it.")
    ] = False,
    num_classes: Annotated[int | None, typer.Option(min=1, help="Classes that it tells apart.")] = None,
    img_size: Annotated[int | None, typer.Option(min=1, help="Side of its square images in pixels.")] = None,
    patch_size: Annotated[int | None, typer.Option(min=1, help="Side of a patch in pixels.")] = None,
    in_chans: Annotated[int | None, typer.Option(min=1, help="Channels of its images.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Another argument for timm, KEY=VALUE with a JSON value.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="The dataset whose images it is judged on.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Let the name mean this model from now on.")] = False,
) -> None:
    """Register a timm model, with weights of your own, timm's, or random ones (latency only).

    torch and timm must be installed here: they build the model, read the weights (never executing what a file holds),
    and tell how it wants its images. The weights go to the coordinator, and from there to boards.
    """
    named = {"num_classes": num_classes, "img_size": img_size, "patch_size": patch_size, "in_chans": in_chans}
    arguments = {**settings_of(set_ or []), **{key: value for key, value in named.items() if value is not None}}
    preprocessing = None
    if (arch is None) == (like is None):
        raise InputError("a model has an architecture", "give --arch, or --like with a model that has it, too")
    if like is not None:
        known = fleet().model(like)
        arch, preprocessing = known.architecture, known.preprocessing
        arguments, dataset = {**known.arguments, **arguments}, dataset or known.dataset
    assert arch is not None
    with bars() as progress:
        added = fleet().add_model(
            name,
            arch,
            arguments=arguments,
            preprocessing=preprocessing,
            checkpoint=checkpoint,
            pretrained=pretrained,
            pretrained_on_board=pretrained_on_board,
            dataset=dataset,
            replace=replace,
            progress=progress,
        )
    shape, weights = added.model.geometry, weights_in_words(added.model)
    say(
        f"model {name} {'is registered' if added.new else 'was registered already'}: {shape.depth} blocks of"
        f" {shape.dim}, {shape.tokens} tokens, {shape.image_size} px, {shape.classes} classes"
    )
    if weights == "random":
        say("its weights are random: its latency is real, its accuracy is not asked for")
    elif weights == "pretrained":
        say("its weights are timm's own, fetched by every board that runs it")
    else:
        say(f"its weights are artifact {weights}")
    if weights != "random" and dataset is None:
        say("it has no images to be judged on: plans rest on latency alone (--dataset NAME names some)")


@app.command()
def show(name: Annotated[str, typer.Argument(help="A model's name.")]) -> None:
    """All that is known of one model."""
    model = fleet().model(name)
    told = codec.encode(model)
    shown: dict[str, Any] = {
        "model": model.name,
        "digest": model.digest,
        "architecture": model.architecture,
        "arguments": codec.dumps(model.arguments),
        **told["geometry"],
        "weights": weights_in_words(model),
        "dataset": model.dataset or "–",
    }
    if model.preprocessing is not None:
        shown |= told["preprocessing"]
    for key, value in shown.items():
        say(f"{key.replace('_', ' ')}: {value}")


def settings_of(texts: list[str]) -> dict[str, Any]:
    """``["global_pool=\\"avg\\""]`` as a dictionary. Raises ``InputError``."""
    settings: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise InputError(
                f"--set {text!r} is not KEY=VALUE", "such as --set reg_tokens=4 or --set global_pool='\"avg\"'"
            )
        try:
            settings[key] = codec.loads(Any, value, key)
        except DecodeError as error:
            raise InputError(
                f"--set {text}: {error.sentence}", f"a text stands in double quotes: --set {key}='\"avg\"'"
            ) from error
    return settings


@app.command("train-digits")
def train_digits(
    out: Annotated[Path, typer.Option(help="Where to write the checkpoint (.npz).")] = Path("digits_vit.npz"),
) -> None:
    """Train the bundled 197-token ViT on scikit-learn's handwritten digits; prints its held-out top-1."""
    status = subprocess.run(bundled.training_command(out)).returncode
    if status != 0:
        raise ConfigurationError(f"training ended with status {status}")
