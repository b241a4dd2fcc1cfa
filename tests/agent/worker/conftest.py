"""Jobs of the worker's tests: a model too small to matter on a virtual board or on this CPU."""

import os
import subprocess
import sys
from typing import Any, Sequence

# With importlib mode, folders of tests are on no path.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import pytest

from tailfleet_schema import codec
from tailfleet_schema.curve import SIZED, Part, Unit
from tailfleet_schema.job import Job, JobKind
from tailfleet_schema.messages import WorkerEvent
from tailfleet_schema.workload import Geometry, ModelSpec, Preprocessing, Workload

TINY = Geometry(
    depth=2, dim=32, heads=2, mlp_dim=128, tokens=17, prefix=1, image_size=32, patch_size=8, channels=3, classes=10
)

TINY_SPEC = ModelSpec(
    "tiny",
    "VisionTransformer",
    TINY,
    {
        "img_size": 32,
        "patch_size": 8,
        "in_chans": 3,
        "num_classes": 10,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 2,
        "mlp_ratio": 4.0,
    },
    preprocessing=Preprocessing([0.5], [0.5], "bilinear"),
)

CURVE = (
    [Unit(Part.SENTINEL, 17, 17), Unit(Part.FIXED, 17, 17)]
    + [Unit(part, n, n) for part in (Part.MODEL, Part.ATTENTION, Part.MLP) for n in (5, 9, 17)]
    + [Unit(Part.ATTENTION, 9, 9, SIZED)]
    + [Unit(Part.REDUCE, 17, 12, method) for method in ("topk", "pomt", "tome")]
)


@pytest.fixture(scope="session")
def tiny_spec():
    return TINY_SPEC


@pytest.fixture
def make_job():
    """A job of the tiny model; every field can be set."""

    def make(
        units: Sequence[Unit] = CURVE,
        backend: str = "virtual",
        rounds: int = 3,
        calls: int = 2,
        seed: int = 7,
        batch: int = 1,
        dtype: str = "fp32",
        attention: str = "explicit",
        spec: ModelSpec = TINY_SPEC,
        kind: JobKind = JobKind.SWEEP,
        **more: Any,
    ) -> Job:
        return Job(
            "job", kind, Workload(spec, batch, backend, dtype, attention), list(units), rounds, calls, seed, **more
        )

    return make


@pytest.fixture
def run_worker():
    """Runs the real child: (exit status, events, standard error)."""

    def run(text: str, arguments: Sequence[str] = ("-m", "tailfleet_agent.worker"), **environment: str):
        done = subprocess.run(
            [sys.executable, *arguments],
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=120,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )
        events = [codec.loads(WorkerEvent, line, "event") for line in done.stdout.splitlines()]
        return done.returncode, events, done.stderr

    return run
