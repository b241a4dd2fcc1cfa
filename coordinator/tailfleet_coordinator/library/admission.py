"""What is asked of a model or a dataset before it is registered: that it can be run, judged, and named again. Pure."""

from tailfleet_coordinator.names import check_name
from tailfleet_schema import codec
from tailfleet_schema.errors import InputError
from tailfleet_schema.workload import FILES, JUDGED_SPLITS, DatasetIndex, DatasetSpec, ImageFile, ModelSpec

CALIBRATION, EVALUATION = JUDGED_SPLITS

MOST_TOKENS = 1 << 16
"""Far beyond any transformer of images; a campaign lists units for each block and count."""


def check_model(spec: ModelSpec, dataset: DatasetSpec | None) -> None:
    """Raise ``InputError`` for a model that no campaign could run or judge; ``dataset`` is the one that it names."""
    check_name("model", spec.name)
    geometry, preprocessing = spec.geometry, spec.preprocessing
    if geometry.tokens > MOST_TOKENS:
        raise InputError(f"a model has at most {MOST_TOKENS} tokens")
    if preprocessing is not None and len(preprocessing.mean) not in (1, geometry.channels):
        raise InputError(
            f"preprocessing has means of {len(preprocessing.mean)} channels, and the model takes {geometry.channels}"
        )
    check_images(spec.name, spec.checkpoint_sha256 is None and not spec.pretrained, spec.dataset)
    if dataset is not None:
        check_classes(spec, dataset)


def check_classes(model: ModelSpec, dataset: DatasetSpec) -> None:
    """Raise ``InputError`` where images are of classes that the model does not know, or it tells none apart."""
    if dataset.classes > model.geometry.classes:
        raise InputError(
            f"dataset {dataset.name!r} has {dataset.classes} classes, and model {model.name!r} tells"
            f" {model.geometry.classes} apart",
            "choose another dataset, or give the model --num-classes and weights for them",
        )
    if not dataset.labelled and model.geometry.classes < 2:
        raise InputError(
            f"model {model.name!r} tells no classes apart, so it has no answers to agree with",
            "leave --dataset out, or give the model --num-classes and weights for them",
        )


def check_images(name: str, random: bool, dataset: str | None) -> None:
    """Raise ``InputError`` where a model with random weights names images."""
    if random and dataset is not None:
        raise InputError(
            f"model {name!r} has random weights: judging it on {dataset!r} would say nothing",
            "give it --checkpoint FILE or --pretrained, or leave --dataset out",
        )


def check_dataset(spec: DatasetSpec, content: bytes) -> DatasetIndex:
    """The index in ``content``. Raises ``InputError`` unless it is canonical and is what ``spec`` says of it."""
    if spec.form != FILES:
        raise InputError(f"only datasets of form {FILES!r} can be added, not {spec.form!r}", "tailfleet dataset add")
    index = codec.loads(DatasetIndex, content, "index")
    if codec.dumps(index).encode() != content:
        raise InputError("the index is not canonical JSON: the same images could have two names")
    told = {
        "classes": (spec.classes, len(index.classes)),
        "calibration_images": (spec.calibration_images, _count(index, CALIBRATION)),
        "evaluation_images": (spec.evaluation_images, _count(index, EVALUATION)),
    }
    for what, (said, found) in told.items():
        if said != found:
            raise InputError(f"dataset.{what} is {said}, but the index has {found}")
        # Without classes there are no labels, which the index holds itself to.
        if found < 1 and what != "classes":
            raise InputError(f"dataset.{what} must be at least 1")
    first: dict[str, ImageFile] = {}
    for file in index.files:
        known = first.setdefault(file.sha256, file)
        if known.label != file.label:
            raise InputError(f"{known.path} and {file.path} are the same image under two classes")
    return index


def _count(index: DatasetIndex, which: str) -> int:
    return sum(file.split == which for file in index.files)
