"""Judging predictions on images: top-1, agreement with the dense model, divergence from it. Of images without labels
the dense model's own answers are what is right, so that top-1 is agreement there.

Answers the units that ask for it: a whole schedule on the evaluation images (ACCURACY), one method reducing at one
block, or up to it, or a whole schedule on the calibration images (LOSS), a random part of the patches as input on the
same (INPUT), and what a backend makes of a model on random images (FIDELITY). What the dense model computes is computed
once: its logits, and for LOSS the tokens that enter each block, so that only the blocks from the reducing one on are
run again.

Of a board's own backend, the predictions are those of what it times: its dtype, its attention, its graphs; they are
held against eager fp32, so that what a backend or a dtype changes shows. Timing is left to ``timing``; a planner's use
of the figures to the coordinator.
"""

from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional

import torch

from tailfleet_agent.worker import datasets, models, preprocess
from tailfleet_reduce import METHODS, Anatomy, ReducedModel, apply, dissect, method_for
from tailfleet_schema.curve import JUDGED_PARTS, WHOLE, Judgement, Part, Unit
from tailfleet_schema.errors import InputError
from tailfleet_schema.job import Job
from tailfleet_schema.schedule import Schedule, lead
from tailfleet_schema.workload import ModelSpec

BATCH = 25

CACHE_BYTES = 512 * 1024 * 1024
"""Tokens entering all blocks are kept where they fit, else those of the block last asked for, else none."""

PIXEL_BYTES = 256 * 1024 * 1024
"""Decoded images are kept while they fit: 1,700 of 224 × 224 in colour. The rest is decoded at each pass."""


FIDELITY_IMAGES = 32
"""Random images that a backend's fidelity is judged on, unless the job asks for fewer."""

Predict = Callable[[str, Any], Any]
"""``Backend.predict``."""


class Split:
    """The images of one split, a batch at a time, and what the dense model says of them."""

    def __init__(
        self, anatomy: Anatomy, images: datasets.Images, labelled: bool, model: ModelSpec, device: str, dtype: str
    ) -> None:
        self.labels = images.labels if labelled else None  # (images,) int64
        self._images = images
        self._model = model
        self._device = device
        self._dtype = models.TORCH_DTYPES[dtype]
        self._anatomy = anatomy
        self._dense: Optional[torch.Tensor] = None
        self._pixels: Dict[int, torch.Tensor] = {}
        self._pixel_bytes = 0
        self._entering: Dict[int, List[torch.Tensor]] = {}

    def batches(self) -> Iterator[torch.Tensor]:
        """The model's inputs (B, channels, size, size), at most ``BATCH`` at once."""
        for start in range(0, len(self._images), BATCH):
            pixels = self._pixels.get(start)
            if pixels is None:
                pixels = self._images.pixels(self._model, start, start + BATCH)
                if self._pixel_bytes + pixels.numel() <= PIXEL_BYTES:
                    self._pixels[start] = pixels
                    self._pixel_bytes += pixels.numel()
            yield preprocess.normalised(pixels, self._model).to(device=self._device, dtype=self._dtype)

    def dense_logits(self) -> torch.Tensor:
        """(images, K) fp32 on the host."""
        if self._dense is None:
            self._dense = collect(self._anatomy.model(batch) for batch in self.batches())
        return self._dense

    def entering(self, block: int) -> Iterator[torch.Tensor]:
        """The tokens (B, N, C) of each batch that enter ``block`` of the dense model."""
        if block in self._entering:
            return iter(self._entering[block])
        return self._computed(block)

    def _computed(self, block: int) -> Iterator[torch.Tensor]:
        """The same, computed from the images; what fits is kept once all batches have been asked for."""
        self._entering = {}
        kept: Dict[int, List[torch.Tensor]] = {}
        for x in map(self._anatomy.embed, self.batches()):
            one = x[0].numel() * x.element_size() * len(self._images)
            everything = one * self._anatomy.depth <= CACHE_BYTES
            wanted: Optional[torch.Tensor] = None
            for number, part in enumerate(self._anatomy.blocks):
                if everything or (number == block and one <= CACHE_BYTES):
                    kept.setdefault(number, []).append(x)
                if number == block:
                    wanted = x
                    if not everything:
                        break
                x = part.whole(x)
            assert wanted is not None
            yield wanted
        self._entering = kept


class Judge:
    """Judges the units of one job; the model and the images are read when the first unit asks for them.

    ``computed_on`` (``board`` or ``host``) is what its judgements say of where they were computed; ``dataset_folder``
    is as in ``WorkerOrder``. With ``predict``, a backend's, schedules are judged by its predictions against eager fp32;
    without, all is eager in the workload's dtype.
    """

    def __init__(
        self,
        job: Job,
        artifacts_dir: str,
        computed_on: str,
        device: str = "cpu",
        dataset_folder: Optional[str] = None,
        predict: Optional[Predict] = None,
    ) -> None:
        self._job = job
        self._predict = predict
        self._dtype = job.workload.dtype if predict is None else "fp32"
        self._artifacts_dir = artifacts_dir
        self._computed_on = computed_on
        self._device = device
        self._dataset_folder = dataset_folder
        self._anatomy_or_none: Optional[Anatomy] = None
        self._splits: Dict[str, Split] = {}
        self._schedules = {schedule.digest: schedule for schedule in job.schedules}

    def judge(self, unit: Unit) -> Judgement:
        """How the predictions come out. Raises ``InputError`` for a unit that is timed, or does not fit the model."""
        if unit.part not in JUDGED_PARTS:
            raise InputError("a unit of part {} is timed, not judged".format(unit.part.value))
        with torch.no_grad():
            if unit.part is Part.FIDELITY:
                return self._fidelity(unit)
            if unit.part is Part.ACCURACY:
                split = self._split("evaluation")
                logits = self._scheduled(unit, split)
            else:
                split = self._split("calibration")
                logits = self._with_loss(unit, split) if unit.part is Part.LOSS else self._with_input(unit, split)
            dense = split.dense_logits()
            return compare(logits, dense, dense.argmax(1) if split.labels is None else split.labels, self._computed_on)

    @property
    def _anatomy(self) -> Anatomy:
        if self._anatomy_or_none is None:
            job = self._job
            model = models.build(job.workload.model, self._artifacts_dir, job.seed, self._device, self._dtype)
            self._anatomy_or_none = dissect(model)
        return self._anatomy_or_none

    def _split(self, name: str) -> Split:
        if name not in self._splits:
            job = self._job
            if job.dataset is None:
                raise InputError("the job judges predictions, but carries no dataset")
            images = datasets.load(job.dataset, self._artifacts_dir, name, job.images, self._dataset_folder)
            workload = job.workload
            device, dtype = self._device, self._dtype
            self._splits[name] = Split(self._anatomy, images, job.dataset.labelled, workload.model, device, dtype)
        return self._splits[name]

    def _scheduled(self, unit: Unit, split: Split) -> torch.Tensor:
        predict = self._predict
        # Also before a backend predicts: it times what the model has no trained queries for.
        reduced = self._reduced(unit.label)
        if predict is not None:
            return collect(_predicted(predict, unit.label, batch) for batch in split.batches())
        return split.dense_logits() if reduced is None else collect(reduced(batch) for batch in split.batches())

    def _reduced(self, digest: str) -> Optional[ReducedModel]:
        """The model under the schedule; None where that reduces nothing."""
        schedule = self._schedules.get(digest)
        if schedule is None:
            raise InputError("the job does not carry the schedule {}".format(digest[:12]))
        return None if schedule.is_dense else apply(self._anatomy.model, schedule, self._job.workload.model.name)

    def _fidelity(self, unit: Unit) -> Judgement:
        """The backend's predictions on random images against eager fp32 under the same schedule."""
        predict = self._predict
        if predict is None:
            raise InputError("fidelity is that of a board's own backend, and here is none")
        geometry = self._job.workload.model.geometry
        count = min(FIDELITY_IMAGES, self._job.images or FIDELITY_IMAGES)
        images = torch.randn(
            count,
            geometry.channels,
            geometry.image_size,
            geometry.image_size,
            generator=torch.Generator().manual_seed(self._job.seed),
        )
        model: Any = (self._reduced(unit.label) if unit.label else None) or self._anatomy.model
        batches = [images[start : start + BATCH] for start in range(0, count, BATCH)]
        exact = collect(model(batch.to(self._device)) for batch in batches)
        return compare(
            collect(_predicted(predict, unit.label, batch) for batch in batches),
            exact,
            exact.argmax(1),
            self._computed_on,
        )

    def _with_loss(self, unit: Unit, split: Split) -> torch.Tensor:
        """Logits with ``kept`` tokens leaving ``block`` by the method, and nothing reduced elsewhere; but in the blocks
        just before, where one block cannot leave so few (``lead``)."""
        if unit.block == WHOLE:
            return self._whole(unit, split)
        anatomy, geometry = self._anatomy, self._job.workload.model.geometry
        if not 0 <= unit.block < anatomy.depth:
            raise InputError("there is no block {}; the model has {}".format(unit.block, anatomy.depth))
        if unit.tokens != geometry.tokens:
            raise InputError(
                "{} tokens enter every block of the dense model, not {}".format(geometry.tokens, unit.tokens)
            )
        leading = lead(unit.label, unit.tokens, geometry.prefix, unit.block, unit.kept)
        if unit.label not in METHODS:
            raise InputError("{} cannot leave {} of {} tokens".format(unit.label, unit.kept, unit.tokens))
        if unit.kept == unit.tokens:
            return split.dense_logits()
        keep = leading + [unit.kept] * (anatomy.depth - len(leading))
        schedule = Schedule(unit.label, self._job.workload.model.name, unit.tokens, geometry.prefix, keep)
        method = method_for(unit.label, anatomy).to(self._device)
        method.check(schedule)
        logits = []
        first = schedule.reducing_blocks[0]
        for x in split.entering(first):
            state = anatomy.state(method)
            for block, kept in zip(anatomy.blocks[first:], keep[first:]):
                x = block.reduce(x, method, kept, state) if kept < x.shape[1] else block.whole(x, state)
            logits.append(anatomy.head(x))
        return collect(logits)

    def _whole(self, unit: Unit, split: Split) -> torch.Tensor:
        """Logits under a schedule; up to its first reduction they are the dense model's."""
        reduced = self._reduced(unit.label)
        if reduced is None:
            return split.dense_logits()
        first = reduced.schedule.reducing_blocks[0]
        return collect(self._anatomy.head(reduced.onward(x, first)) for x in split.entering(first))

    def _with_input(self, unit: Unit, split: Split) -> torch.Tensor:
        """Logits with all blocks on n tokens: the prefix, and patches drawn at random for each image.

        The job's seed decides; fewer tokens of an image are a part of its more, so that curves over n are smooth.
        """
        anatomy = self._anatomy
        patches = unit.tokens - anatomy.prefix
        if not 1 <= patches <= self._job.workload.model.geometry.tokens - anatomy.prefix:
            raise InputError("the model's input cannot have {} tokens".format(unit.tokens))
        generator = torch.Generator().manual_seed(self._job.seed)
        logits = []
        for batch in split.batches():
            x = anatomy.embed(batch)  # (B, N, C)
            order = torch.rand(x.shape[0], x.shape[1] - anatomy.prefix, generator=generator).argsort(1)
            chosen = order[:, :patches].sort(1).values.to(x.device)  # (B, n - P)
            x, state = anatomy.drawn(x, chosen)
            for block in anatomy.blocks:
                x = block.whole(x, state)
            logits.append(anatomy.head(x))
        return collect(logits)


def _predicted(predict: Predict, digest: str, images: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(predict(digest, images.cpu().numpy()))


def collect(logits: Iterable[torch.Tensor]) -> torch.Tensor:
    """Logits of all batches, (images, K) fp32 on the host."""
    return torch.cat([part.float().cpu() for part in logits])


def compare(logits: torch.Tensor, dense: torch.Tensor, labels: torch.Tensor, computed_on: str) -> Judgement:
    """Judge ``logits`` (images, K) against ``labels`` (images,) and the ``dense`` model's logits."""
    guess = logits.argmax(1)
    right = (guess == labels).tolist()
    log_dense, log_reduced = dense.double().log_softmax(1), logits.double().log_softmax(1)
    divergence = (log_dense.exp() * (log_dense - log_reduced)).sum(1).mean()
    return Judgement(
        images=len(right),
        correct=sum(right),
        agreeing=int((guess == dense.argmax(1)).sum()),
        # Never negative but for rounding.
        kl_nats=max(0.0, float(divergence)),
        computed_on=computed_on,
        correct_bits="".join("1" if hit else "0" for hit in right),
    )
