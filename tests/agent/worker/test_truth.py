"""The child that tells the truth of virtual boards, over its real pipes and without torch."""

import json
import os
import subprocess
import sys

import pytest

from tailfleet_agent.worker.backends.virtual import VirtualBackend, true_ns
from tailfleet_agent.worker.truth import truth
from tailfleet_schema import codec
from tailfleet_schema.curve import Part, Unit
from tailfleet_schema.errors import Blame, InputError
from tailfleet_schema.messages import TruthOrder, TruthReply, WorkerEvent
from tailfleet_schema.schedule import Schedule


@pytest.fixture
def run_truth(tmp_path):
    """The real child's answer to a line, where torch cannot be imported: (exit status, reply or failure)."""
    for name in ("torch", "numpy", "timm"):
        (tmp_path / (name + ".py")).write_text("raise SystemExit('imported')")

    def run(line):
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-m", "tailfleet_agent.worker", "truth"],
            input=line,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": path},
        )
        (answer,) = done.stdout.splitlines()
        if "failure" in json.loads(answer):
            return done.returncode, codec.loads(WorkerEvent, answer).failure
        return done.returncode, codec.loads(TruthReply, answer)

    return run


def test_the_truth_is_what_samples_scatter_about(run_truth, make_job):
    workload = make_job().workload
    units = [Unit(Part.MODEL, 9, 9), Unit(Part.FIXED, 17, 17), Unit(Part.REDUCE, 17, 9, "tome")]

    status, reply = run_truth(codec.dumps(TruthOrder("jetson-tx2", workload, units)) + "\n")

    assert status == 0
    backend = VirtualBackend(make_job(units, calls=200), "jetson-tx2")
    for unit, ns in zip(units, reply.ns):
        assert ns == true_ns("jetson-tx2", workload.model.geometry, unit, 1, "fp32")
        assert min(backend.measure(unit, 0, 200)) == pytest.approx(ns, rel=0.01)


def test_schedules_are_known_by_their_digests(make_job):
    workload = make_job().workload
    schedule = Schedule("topk", "tiny", 17, 1, [17, 9])
    unit = Unit(Part.SCHEDULE, 17, 9, schedule.digest)

    (ns,) = truth(TruthOrder("jetson-tx2", workload, [unit], [schedule])).ns

    assert ns == true_ns("jetson-tx2", workload.model.geometry, unit, 1, "fp32", schedule)
    with pytest.raises(InputError, match="needs its schedule"):
        truth(TruthOrder("jetson-tx2", workload, [unit]))


@pytest.mark.parametrize(
    ("backend", "profile", "unit", "sentence"),
    [
        ("virtual", "toaster", Unit(Part.MODEL, 9, 9), "no virtual board is named 'toaster'"),
        ("eager", "jetson-tx2", Unit(Part.MODEL, 9, 9), "eager is measured: only virtual boards"),
        ("virtual", "jetson-tx2", Unit(Part.INPUT, 9, 9), r"^units\[0\]: input is judged, not timed"),
    ],
)
def test_what_has_no_known_truth_is_refused(make_job, backend, profile, unit, sentence):
    with pytest.raises(InputError, match=sentence):
        truth(TruthOrder(profile, make_job(backend=backend).workload, [unit]))


def test_a_refusal_is_one_line_with_who_must_act(run_truth, make_job):
    order = TruthOrder("jetson-nano", make_job(dtype="bf16").workload, [Unit(Part.MODEL, 9, 9)])

    status, failure = run_truth(codec.dumps(order) + "\n")

    assert (status, failure.blame) == (1, Blame.AUTHOR)
    assert failure.sentence == "units[0]: jetson-nano cannot compute in bf16"
