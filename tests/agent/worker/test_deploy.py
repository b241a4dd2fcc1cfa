"""The child that writes a model under a schedule, over its real pipes and within this process."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from tailfleet_agent.worker import models
from tailfleet_agent.worker.deploy import SEED, deploy
from tailfleet_reduce import apply
from tailfleet_schema import codec
from tailfleet_schema.errors import Blame, LabError, ScheduleError
from tailfleet_schema.messages import DeployOrder, DeployReply, WorkerEvent
from tailfleet_schema.schedule import Schedule

TOPK = Schedule("topk", "tiny", 17, 1, [12, 8])


@pytest.fixture(autouse=True)
def _able():
    if not hasattr(torch, "export") or tuple(map(int, torch.__version__.split(".")[:2])) < (2, 5):
        pytest.skip("this torch cannot export these models: 2.5 can")


def ask(line):
    done = subprocess.run(
        [sys.executable, "-m", "tailfleet_agent.worker", "deploy"],
        input=line,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=300,
    )
    (answer,) = done.stdout.splitlines()
    kind = WorkerEvent if "failure" in json.loads(answer) else DeployReply
    return done.returncode, codec.loads(kind, answer)


def test_an_onnx_file_of_a_registered_model(tiny_spec, tmp_path, onnx_logits):
    path = str(tmp_path / "tiny.onnx")
    status, reply = ask(codec.dumps(DeployOrder(tiny_spec, TOPK, path, batch=None)) + "\n")
    assert status == 0, reply
    assert reply.checked_by.startswith("onnxruntime ")
    assert reply.difference <= 1e-4
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = apply(models.build(tiny_spec, "", SEED), TOPK)(images).numpy()
    (logits,) = onnx_logits(path, images.numpy())
    assert np.abs(logits - expected).max() <= 1e-4


def test_what_is_refused_leaves_no_file(tiny_spec, tmp_path):
    out = str(tmp_path / "tiny.pt2")
    other = Schedule("topk", "other", 17, 1, [12, 8])
    status, event = ask(codec.dumps(DeployOrder(tiny_spec, other, out, format="pt2")) + "\n")
    assert status == 1
    assert event.failure.blame is Blame.AUTHOR
    assert event.failure.sentence == "model: was made for model 'other', not for 'tiny'"
    assert list(tmp_path.iterdir()) == []


def test_weights_and_queries_that_are_missing(tiny_spec, tmp_path):
    from dataclasses import replace

    out = str(tmp_path / "tiny.pt2")
    lost = replace(tiny_spec, checkpoint_sha256="0" * 64)
    with pytest.raises(LabError, match="the checkpoint of model 'tiny'"):
        deploy(DeployOrder(lost, TOPK, out, str(tmp_path), "pt2"))
    with pytest.raises(ScheduleError, match="needs trained queries"):
        deploy(DeployOrder(tiny_spec, Schedule("cropr", "tiny", 17, 1, [12, 8]), out, format="pt2"))
    assert list(tmp_path.iterdir()) == []
