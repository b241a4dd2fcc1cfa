"""The child that is asked one thing: how it ends where the one who asks is interrupted."""

import os
import subprocess

import pytest

from tailfleet_coordinator.library import child
from tailfleet_schema.messages import TruthReply

WRITES_FOR_EVER = """
import signal, sys, tempfile
signal.signal(signal.SIGINT, signal.default_int_handler)
with tempfile.TemporaryDirectory(dir=sys.argv[1]) as folder:
    print("begun", flush=True)
    while True:
        signal.pause()
"""


def test_an_interrupted_question_leaves_no_child_and_nothing_half_written(tmp_path, monkeypatch):
    started = []

    def interrupted(process, order):
        started.append(process)
        assert process.stdout.readline() == b"begun\n"
        assert len(os.listdir(tmp_path)) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        child.ask(["-c", WRITES_FOR_EVER, str(tmp_path)], {}, TruthReply, "writes", "Python is")
    assert os.listdir(tmp_path) == []
    (process,) = started
    assert process.returncode is not None
