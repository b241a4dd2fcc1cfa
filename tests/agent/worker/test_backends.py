"""The contract of every backend that runs a model: all parts are timed, and predictions are eager's in fp32."""

import sys

import numpy as np
import pytest
import torch

from tailfleet_agent.worker.backends import open_backend
from tailfleet_agent.worker.backends.programs import Programs
from tailfleet_reduce import METHODS
from tailfleet_schema.curve import SIZED, Part, Unit
from tailfleet_schema.errors import ConfigurationError, InputError
from tailfleet_schema.schedule import Schedule

SCHEDULES = [Schedule(method, "tiny", 17, 1, [14, 10]) for method in sorted(METHODS)] + [
    Schedule("dense", "tiny", 17, 1, [17, 17])
]

UNITS = (
    [Unit(Part.SENTINEL, 17, 17), Unit(Part.FIXED, 17, 17), Unit(Part.ATTENTION, 9, 9, SIZED)]
    + [Unit(part, n, n) for part in (Part.MODEL, Part.ATTENTION, Part.MLP) for n in (9, 17)]
    + [Unit(Part.REDUCE, 17, 12, method) for method in sorted(METHODS)]
    + [Unit(Part.SCHEDULE, 17, one.keep[-1], one.digest) for one in SCHEDULES]
)

KEPT = {"attention": "explicit, measured 1.90x as fast as fused"}

BACKENDS = [
    "eager",
    "compile",
    "cudagraph",
    "onnxruntime",
    "onnxruntime-cuda",
    "onnxruntime-tensorrt",
]


def _is_asked(backend, unit):
    """Few of a backend that takes seconds for each graph; whole models of every method are exported elsewhere, too."""
    if backend == "compile":
        return unit in (Unit(Part.MLP, 9, 9), UNITS[-2])
    if backend == "onnxruntime" and unit.part is Part.SCHEDULE:
        return unit.label in [one.digest for one in SCHEDULES if one.method in ("cropr", "tome", "dense")]
    return True


@pytest.fixture(scope="module", params=BACKENDS)
def opened(request, tiny_spec):
    """A backend with everything that the contract asks of it, resumed from an attempt that chose explicit attention."""
    from tailfleet_schema.job import Job, JobKind
    from tailfleet_schema.workload import Workload

    if request.param.startswith("onnxruntime"):
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    units = [unit for unit in UNITS if _is_asked(request.param, unit)]
    job = Job("job", JobKind.SWEEP, Workload(tiny_spec, 2, request.param), units, 1, 2, 7, SCHEDULES)
    try:
        return job, open_backend(job, "", "", KEPT)
    except ConfigurationError as error:
        if request.param in ("eager", "compile", "onnxruntime") and hasattr(torch, "compile"):
            raise
        return pytest.skip("this machine cannot run {}: {}".format(request.param, error.sentence))


def test_every_unit_takes_time(opened):
    job, backend = opened
    backend.warm_up()
    for unit in job.units:
        taken = backend.measure(unit, 0, 2)
        assert len(taken) == 2, unit
        assert min(taken) > 0, unit
        peak = backend.peak_memory_bytes()
        assert peak is None or peak > 0


def test_predictions_are_those_of_eager_in_fp32(opened):
    job, backend = opened
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    programs = Programs(job, "", "cpu")
    digests = [unit.label for unit in job.units if unit.part is Part.SCHEDULE]
    for digest in digests if job.workload.backend == "compile" else ["", *digests]:
        with torch.no_grad():
            exact = programs.reduced(digest)(images).numpy()
        got = backend.predict(digest, images.numpy())
        assert got.shape == (3, 10)
        assert np.abs(got - exact).max() < 1e-4, digest


def test_it_tells_what_it_runs_on_and_keeps_an_earlier_choice(opened):
    told = opened[1].describe()

    assert told["attention"] == KEPT["attention"]
    assert {"device", "threads", "torch", "timm"} <= set(told)
    assert all(isinstance(word, str) and word for word in told.values())


def test_more_tokens_than_the_model_has_are_refused(opened):
    with pytest.raises(InputError, match="18 tokens asked for, but the model has 17"):
        opened[1].measure(Unit(Part.MODEL, 18, 18), 0, 1)


def test_cudagraph_without_a_gpu_is_refused_by_name(make_job):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA GPU")
    with pytest.raises(ConfigurationError, match="a CUDA graph needs a CUDA GPU"):
        open_backend(make_job(backend="cudagraph"), "")


def test_compile_without_torch_2_is_refused_by_name(make_job, monkeypatch):
    monkeypatch.delattr(torch, "compile", raising=False)

    with pytest.raises(ConfigurationError, match=r"has no torch\.compile"):
        open_backend(make_job(backend="compile"), "")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError("InvalidCxxCompiler: No working C++ compiler found in ('g++',)"), "finds no C\\+\\+ compiler"),
        (RuntimeError("fatal error: Python.h: No such file or directory"), "needs the headers of Python"),
        (RuntimeError("Dynamo is not supported on Python 3.15+"), "fails with RuntimeError: Dynamo is not supported"),
    ],
)
def test_what_torch_compile_lacks_is_named(make_job, monkeypatch, error, sentence):
    if sys.version_info < (3, 8):
        pytest.skip("torch 2 needs Python 3.8")

    def failing(*_, **__):
        raise error

    monkeypatch.setattr(torch, "compile", failing, raising=False)

    with pytest.raises(ConfigurationError, match=sentence):
        open_backend(make_job(backend="compile"), "")


def test_units_do_not_share_compiled_code(monkeypatch):
    from tailfleet_agent.worker.backends import compiled

    if sys.version_info < (3, 8):
        pytest.skip("torch 2 needs Python 3.8")
    monkeypatch.setattr(torch, "compile", lambda function, **_: function, raising=False)
    module = torch.nn.Linear(2, 2)

    one, other = compiled._compiled(module.forward), compiled._compiled(module.forward)

    assert one.__code__ is not other.__code__
    torch.testing.assert_close(one(torch.ones(1, 2)), module(torch.ones(1, 2)))


def test_an_unfilled_last_batch_is_filled_up_and_cut():
    from tailfleet_agent.worker.backends.batches import in_batches

    seen = []

    def run(part):
        seen.append(part.tolist())
        return part * 2

    assert in_batches(np.arange(5.0)[:, None], 2, run).tolist() == [[0], [2], [4], [6], [8]]
    assert seen == [[[0.0], [1.0]], [[2.0], [3.0]], [[4.0], [4.0]]]
