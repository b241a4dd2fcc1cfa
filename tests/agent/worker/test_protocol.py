"""The measured child as a process: one order in, events out, and an end whenever its supervisor is no more."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys

import numpy
import pytest
import torch

from tailfleet_agent.worker import protocol
from tailfleet_schema import codec
from tailfleet_schema.curve import Part, Unit
from tailfleet_schema.errors import Blame
from tailfleet_schema.job import Effort, JobKind, Key
from tailfleet_schema.messages import WorkerEvent, WorkerOrder
from tailfleet_schema.workload import Geometry, ModelSpec

WORKER = [sys.executable, "-m", "tailfleet_agent.worker"]


def order(job, **more):
    return codec.dumps(WorkerOrder(job, **{"virtual_profile": "jetson-tx2", **more})) + "\n"


def results_of(events):
    return [event.result for event in events if event.result is not None]


def as_keys(results):
    return [
        Key(result.unit.part, result.unit.label, result.unit.block, result.unit.tokens, result.unit.kept, result.round)
        for result in results
    ]


def ahead_of_path(folder):
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


@pytest.fixture
def without_torch(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('no torch here', name='torch')\n")
    return ahead_of_path(tmp_path)


def test_an_order_is_answered_by_every_result_and_done(make_job, run_worker):
    job = make_job()

    status, events, _ = run_worker(order(job))

    assert status == 0
    assert sorted(result.key for result in results_of(events)) == sorted(job.keys())
    assert all(len(result.call_ns) == job.calls for result in results_of(events))
    # The state of the machine that computes a virtual board's latencies says nothing of that board.
    assert [result.telemetry for result in results_of(events)] == [None] * len(job.keys())
    assert events[-1].done
    assert any("virtual NVIDIA Jetson TX2" in (event.note or "") for event in events)


def test_a_resumed_order_gives_exactly_the_missing_results(make_job, run_worker):
    job = make_job()
    whole = results_of(run_worker(order(job))[1])
    known = as_keys(whole)[::3]

    status, events, _ = run_worker(order(job, known=known))

    assert status == 0
    assert results_of(events) == [result for result, key in zip(whole, as_keys(whole)) if key not in known]


def test_an_adaptive_sweep_that_was_killed_goes_on_to_the_same_end(make_job, run_worker):
    """SIGKILL after some results, wherever that is; the next child is given what came out, and nothing else."""
    geometry = Geometry(12, 192, 3, 768, 197, 1, 224, 16, 3, 1000)
    units = [Unit(Part.SENTINEL, 197, 197)] + [Unit(Part.MODEL, n, n) for n in range(5, 198, 12)]
    job = make_job(units, spec=ModelSpec("deep", "VisionTransformer", geometry), effort=Effort(least_tokens=2))
    whole = results_of(run_worker(order(job))[1])
    assert {result.unit for result in whole} > set(units)

    earlier = []
    while len(earlier) < len(whole):
        line = order(job, known=as_keys(earlier), earlier=earlier, handshake=True)
        with subprocess.Popen(WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            child.stdin.write(line.encode())
            child.stdin.flush()
            until = len(earlier) + len(whole) // 3
            while len(earlier) < until:
                event = codec.loads(WorkerEvent, child.stdout.readline())
                if event.done:
                    break
                if event.result is not None:
                    earlier.append(event.result)
                    if len(earlier) < until:
                        child.stdin.write(b"go\n")
                        child.stdin.flush()
            os.kill(child.pid, signal.SIGKILL)

    assert earlier == whole


def test_with_handshake_nothing_goes_on_before_go_and_stop_ends_it(make_job):
    with subprocess.Popen(WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdin.write(order(make_job(), handshake=True).encode())
        child.stdin.flush()
        lines = iter(child.stdout.readline, b"")
        told = [codec.loads(WorkerEvent, next(lines)) for _ in range(4)]
        assert [event.result is None for event in told] == [True, True, True, False]
        assert told[2].runtime == {"device": "virtual NVIDIA Jetson TX2", "attention": "explicit attention"}
        child.stdin.write(b"go\n")
        child.stdin.flush()
        assert codec.loads(WorkerEvent, next(lines)).result is not None
        child.stdin.write(b"stop\n")
        child.stdin.flush()
        assert list(lines) == []
        assert child.wait(timeout=30) == protocol.STOPPED


def test_a_supervisor_that_closes_its_pipe_ends_it(make_job, run_worker):
    status, events, _ = run_worker(order(make_job(), handshake=True))

    assert status == protocol.STOPPED
    assert len(results_of(events)) == 1


def test_no_order_is_no_failure(run_worker):
    assert run_worker("")[:2] == (protocol.STOPPED, [])


def test_a_killed_supervisor_takes_the_child_with_it(make_job):
    """The child holds the writing end of a pipe: its end is seen as end of file."""
    alive, held = os.pipe()
    supervisor = (
        "import subprocess, sys\n"
        "child = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, stdout=subprocess.PIPE,"
        " pass_fds=[int(sys.argv[1])])\n"
        "child.stdin.write(sys.stdin.buffer.readline()); child.stdin.flush()\n"
        "child.stdout.readline(); print('started', flush=True); child.wait()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", supervisor, str(held), *WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[held],
    ) as parent:
        os.close(held)
        parent.stdin.write(order(make_job(), handshake=True).encode())
        parent.stdin.flush()
        assert parent.stdout.readline() == b"started\n"
        parent.send_signal(signal.SIGKILL)
        parent.wait(timeout=30)
    with open(alive, "rb") as pipe:
        assert pipe.read() == b""


def test_without_handshake_a_new_parent_ends_it_within_one_unit(make_job, monkeypatch):
    parents = iter([100, 100, 100])
    monkeypatch.setattr(os, "getppid", lambda: next(parents, 1))
    channel = io.BytesIO()

    status = protocol._Session(io.BytesIO(order(make_job()).encode()), channel).serve()

    events = [codec.loads(WorkerEvent, line) for line in channel.getvalue().splitlines()]
    assert status == protocol.STOPPED
    assert len(results_of(events)) == 3


def test_what_libraries_print_does_not_reach_the_protocol(make_job, run_worker):
    chatty = (
        "import os, sys\n"
        "from tailfleet_agent.worker import protocol, run\n"
        "visits = run.visits\n"
        "def loud(*given):\n"
        "    print('a library prints'); os.write(1, b'and writes\\n')\n"
        "    return visits(*given)\n"
        "run.visits = loud\n"
        "sys.exit(protocol.main([]))\n"
    )

    status, events, errors = run_worker(order(make_job(rounds=1)), ["-c", chatty])

    assert status == 0
    assert events[-1].done
    assert "a library prints" in errors
    assert "and writes" in errors


@pytest.mark.parametrize(
    ("change", "blame", "sentence"),
    [
        (lambda line: "{" + line, Blame.AUTHOR, "order: not valid JSON"),
        (lambda line: line.replace('"rounds":3', '"rounds":true'), Blame.AUTHOR, "order.job.rounds: must be a whole"),
        (lambda line: line.replace("jetson-tx2", "toaster"), Blame.AUTHOR, "no virtual board is named 'toaster'"),
        (lambda line: line.replace('"jetson-tx2"', "null"), Blame.AUTHOR, "belongs to virtual boards alone"),
    ],
)
def test_an_order_that_cannot_be_meant_is_its_authors(make_job, run_worker, change, blame, sentence):
    status, events, errors = run_worker(change(order(make_job())))

    assert status == protocol.FAILED
    assert events[-1].failure.blame is blame
    assert sentence in events[-1].failure.sentence
    assert "Traceback" in errors


def test_a_virtual_board_measures_nothing(make_job, run_worker, without_torch):
    _, events, _ = run_worker(order(make_job(backend="eager")), PYTHONPATH=without_torch)

    assert "the virtual board jetson-tx2 measures nothing" in events[-1].failure.sentence


def test_a_missing_torch_is_told_with_the_command_that_installs_it(make_job, run_worker, without_torch):
    status, events, _ = run_worker(order(make_job(backend="eager"), virtual_profile=None), PYTHONPATH=without_torch)

    failure = events[-1].failure
    assert status == protocol.FAILED
    assert failure.blame is Blame.CONFIGURATION
    assert failure.sentence.startswith("torch is not installed for {}".format(sys.executable))
    assert protocol.install_command() in failure.sentence


def test_old_pythons_are_told_the_last_versions_that_they_can_have(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 6, 9))

    assert 'pip install "torch<1.11" torchvision "timm<0.7"' in protocol.install_command()


def test_anything_else_is_our_bug_and_carries_its_traceback(make_job, run_worker):
    broken = (
        "import sys\n"
        "from tailfleet_agent.worker import protocol, run\n"
        "def visits(*given): return 1 // 0\n"
        "run.visits = visits\n"
        "sys.exit(protocol.main([]))\n"
    )

    status, events, _ = run_worker(order(make_job()), ["-c", broken])

    failure = events[-1].failure
    assert status == protocol.FAILED
    assert failure.blame is Blame.BUG
    assert "ZeroDivisionError" in failure.sentence
    assert "in visits" in failure.detail


def test_a_unit_that_does_not_fit_is_a_result_of_a_job_that_ends_well(make_job, run_worker):
    job = make_job([Unit(Part.MODEL, 5, 5), Unit(Part.MODEL, 17, 17)], rounds=1, batch=2_000_000)

    status, events, _ = run_worker(order(job, virtual_profile="jetson-nano"))

    assert status == 0
    assert [result.status for result in results_of(events)] == ["oom", "oom"]


def test_a_bare_python_36_is_told_the_one_command(run_worker):
    bare = (
        "import sys\n"
        "sys.modules['dataclasses'] = None\n"
        "from tailfleet_agent.worker import protocol\n"
        "sys.exit(protocol.main([]))\n"
    )

    status, events, errors = run_worker("", ["-c", bare])

    assert status == protocol.FAILED
    assert "-m pip install dataclasses" in events[0].failure.sentence
    assert "-m pip install dataclasses" in errors.splitlines()[-1]


def test_facts_of_a_virtual_board_are_the_modelled_ones():
    done = subprocess.run(
        [*WORKER, "facts", "--virtual", "agx-orin"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=30,
        check=True,
    )

    facts = json.loads(done.stdout)
    assert (facts["gpu_sms"], facts["architecture"], facts["torch"]) == (16, "aarch64", None)
    assert facts["os"].startswith("modelled")


def test_facts_of_a_machine_without_torch_are_blank(tmp_path):
    for name in ("torch", "timm", "onnxruntime"):
        (tmp_path / (name + ".py")).write_text("raise RuntimeError('a broken wheel')\n")
    done = subprocess.run(
        [*WORKER, "facts"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=30,
        check=True,
        env={**os.environ, "PYTHONPATH": ahead_of_path(tmp_path)},
    )

    assert set(json.loads(done.stdout).values()) == {None}


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["facts", "--virtual", "toaster"], 1, "no virtual board is named 'toaster'"),
        (["facts", "--virtual", "jetson-tx2:nois=1"], 1, "a virtual board has no option 'nois'"),
        (["facts", "--virtual"], 2, "usage:"),
        (["dance"], 2, "usage:"),
    ],
)
def test_a_wrong_command_line_gets_one_sentence(arguments, status, words):
    done = subprocess.run(
        [*WORKER, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, timeout=30
    )

    assert done.returncode == status
    assert done.stdout == ""
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_virtual_board_tells_no_state_but_a_modelled_one(make_job, run_worker):
    def telemetry(profile):
        status, events, _ = run_worker(order(make_job(), virtual_profile=profile))
        assert status == 0
        return [event.result.telemetry for event in events if event.result is not None]

    assert set(telemetry("jetson-tx2:noise=0.03")) == {None}
    told = telemetry("jetson-tx2:throttle=0.5,throttle-after-seconds=0")[0]
    assert (told.governor, told.gpu_mhz, told.throttled) == ("modelled", 650.25, "modelled: hot")
    assert (told.cpu_mhz, told.load_1m, told.temperature_c) == ([], None, None)


def test_a_virtual_boards_top1_is_a_real_forward_pass_on_this_host(make_job, run_worker, tmp_path):
    from tailfleet_schema.schedule import Schedule, dense
    from tailfleet_schema.workload import DatasetSpec

    content = io.BytesIO()
    drawn = numpy.random.RandomState(1)
    numpy.savez(
        content,
        images=drawn.randint(0, 256, (9, 32, 32, 3)).astype(numpy.uint8),
        labels=numpy.arange(9, dtype=numpy.int64),
        train=numpy.arange(3),
        calibration=numpy.arange(3, 5),
        evaluation=numpy.arange(5, 9),
    )
    sha256 = hashlib.sha256(content.getvalue()).hexdigest()
    (tmp_path / sha256).write_bytes(content.getvalue())
    plain = make_job().workload.model
    many = [dense(plain.name, plain.geometry), Schedule("topk", plain.name, 17, 1, [9, 9])]
    job = make_job(
        [Unit(Part.ACCURACY, 17, one.keep[-1], one.digest) for one in many] + [Unit(Part.SENTINEL, 17, 17)],
        rounds=2,
        schedules=many,
        kind=JobKind.VERIFY,
        dataset=DatasetSpec("noise", sha256, 10, 2, 4, "drawn at random"),
    )

    status, events, errors = run_worker(order(job, artifacts=str(tmp_path)))

    assert status == 0, errors
    told = {result.key: result for result in results_of(events)}
    judged = [told[unit.key(0)].judgement for unit in job.units[:2]]
    assert sorted(told) == sorted(job.keys())
    assert [(one.images, one.computed_on, len(one.correct_bits)) for one in judged] == [(4, "host", 4)] * 2
    assert judged[0].agreeing == 4
    assert judged[0].kl_nats == 0.0
    assert judged[1].kl_nats > 0.0


def test_image_files_of_the_board_are_judged_and_a_missing_one_is_named(make_job, run_worker, tmp_path):
    from PIL import Image

    from tailfleet_schema.workload import DatasetIndex, DatasetSpec, ImageFile

    files = []
    for number in range(4):
        path = tmp_path / "images" / "{}.png".format(number)
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40 + number, 50), (number, 99, 7)).save(str(path))
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        files.append(ImageFile(path.name, number, "calibration", sha256))
    index = codec.dumps(DatasetIndex([str(number) for number in range(10)], files)).encode()
    sha256 = hashlib.sha256(index).hexdigest()
    (tmp_path / sha256).write_bytes(index)
    job = make_job(
        [Unit(Part.LOSS, 17, 9, "topk", 1)],
        kind=JobKind.PROFILE,
        dataset=DatasetSpec("own", sha256, 10, 4, 0, "drawn", form="files"),
    )
    line = order(job, artifacts=str(tmp_path), dataset_folder=str(tmp_path / "images"))

    status, events, errors = run_worker(line)

    assert status == 0, errors
    assert [result.judgement.images for result in results_of(events)] == [4]

    (tmp_path / "images" / "2.png").unlink()
    status, events, _ = run_worker(line)
    assert status == 1
    assert events[-1].failure.blame is Blame.LAB
    assert events[-1].failure.sentence.startswith(
        "image {} of dataset 'own' cannot be read: No such file or directory; mend: ".format(
            tmp_path / "images" / "2.png"
        )
    )


@pytest.mark.parametrize(
    ("profile", "kind", "computed_on"),
    [
        ("jetson-tx2", JobKind.VERIFY, "host"),
        (None, JobKind.PROFILE, "host"),
        (None, JobKind.VERIFY, "board"),
    ],
)
def test_judgements_say_where_they_were_computed(make_job, monkeypatch, profile, kind, computed_on):
    import types

    from tailfleet_schema.curve import Judgement
    from tailfleet_schema.workload import DatasetSpec

    class Judge:
        def __init__(self, job, artifacts, computed_on, device, dataset_folder, predict):
            self.computed_on = computed_on
            assert dataset_folder == "/images"
            assert predict is None

        def judge(self, unit):
            return Judgement(1, 1, 1, 0.0, self.computed_on, "1")

    monkeypatch.setitem(sys.modules, "tailfleet_agent.worker.judge", types.SimpleNamespace(Judge=Judge))
    monkeypatch.setattr(protocol, "_device", lambda: "cpu")
    job = make_job(
        [Unit(Part.LOSS, 17, 9, "topk", 1)],
        "virtual" if profile else "eager",
        kind=kind,
        dataset=DatasetSpec("images", "0" * 64, 10, 10, 10, "drawn"),
    )
    channel = io.BytesIO()

    status = protocol._Session(
        io.BytesIO(order(job, virtual_profile=profile, dataset_folder="/images").encode()), channel
    ).serve()

    events = [codec.loads(WorkerEvent, line) for line in channel.getvalue().splitlines()]
    assert status == 0
    assert [result.judgement.computed_on for result in results_of(events)] == [computed_on]
    # The sensors of this machine are asked for what runs on it alone.
    assert [result.telemetry is not None for result in results_of(events)] == [profile is None]


@pytest.mark.parametrize(
    ("kind", "on_gpu", "found", "judged_on", "told"),
    [
        (JobKind.PROFILE, True, "cuda", "cuda", ["cuda"]),
        (JobKind.PROFILE, True, "cpu", "cpu", ["cpu"]),
        (JobKind.PROFILE, False, "cuda", "cpu", []),
        (JobKind.VERIFY, False, "cuda", "cuda", []),
    ],
)
def test_a_profile_is_judged_on_the_gpu_where_that_is_asked_and_there_is_one(
    make_job, monkeypatch, kind, on_gpu, found, judged_on, told
):
    import types

    from tailfleet_schema.curve import Judgement
    from tailfleet_schema.workload import DatasetSpec

    devices = []

    class Judge:
        def __init__(self, job, artifacts, computed_on, device, dataset_folder, predict):
            devices.append(device)

        def judge(self, unit):
            return Judgement(1, 1, 1, 0.0, "host", "1")

    monkeypatch.setitem(sys.modules, "tailfleet_agent.worker.judge", types.SimpleNamespace(Judge=Judge))
    monkeypatch.setattr(protocol, "_device", lambda: found)
    job = make_job([Unit(Part.LOSS, 17, 9, "topk", 1)], kind=kind, dataset=DatasetSpec("i", "0" * 64, 2, 9, 9, "drawn"))
    channel = io.BytesIO()
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    line = order(job, virtual_profile=None, judge_on_gpu=on_gpu)
    assert protocol._Session(io.BytesIO(line.encode()), channel).serve() == 0
    events = [codec.loads(WorkerEvent, line) for line in channel.getvalue().splitlines()]
    assert devices == [judged_on]
    assert [event.runtime["device"] for event in events if event.runtime] == told
    # Rounding to 10 bits would make a profile another one than a CPU's.
    assert torch.backends.cudnn.allow_tf32 is (told != ["cuda"])


@pytest.mark.parametrize(("kind", "predicts"), [(JobKind.VERIFY, True), (JobKind.PROFILE, False)])
def test_schedules_are_judged_by_the_predictions_of_the_boards_own_backend(make_job, monkeypatch, kind, predicts):
    import types

    from tailfleet_agent.worker import backends
    from tailfleet_schema.curve import Judgement

    given = []

    class Judge:
        def __init__(self, *arguments):
            given.append(arguments[-1])

        def judge(self, unit):
            return Judgement(1, 1, 1, 0.0, "board", "1")

    monkeypatch.setitem(sys.modules, "tailfleet_agent.worker.judge", types.SimpleNamespace(Judge=Judge))
    monkeypatch.setattr(protocol, "_device", lambda: "cpu")
    backend = types.SimpleNamespace(predict="the backend's own")
    monkeypatch.setattr(backends, "open_backend", lambda *_: backend)
    job = make_job([Unit(Part.FIDELITY, 17, 17)], "eager", kind=kind)

    status = protocol._Session(io.BytesIO(order(job, virtual_profile=None).encode()), io.BytesIO()).serve()

    assert status == 0
    assert given == ["the backend's own" if predicts else None]
