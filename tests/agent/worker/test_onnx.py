"""ONNX Runtime's sessions, its helper process, and the one runtime in the measured process."""

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tailfleet_agent.worker import facts
from tailfleet_schema import codec
from tailfleet_schema.curve import Part, Unit
from tailfleet_schema.errors import ConfigurationError, InputError
from tailfleet_schema.messages import WorkerOrder

SPY = """
import sys
from tailfleet_agent.worker import protocol
from tailfleet_agent.worker.backends import onnx_runtime

measure = onnx_runtime.OnnxRuntimeBackend.measure

def spied(*given):
    sys.stderr.write("torch is {}\\n".format("loaded" if "torch" in sys.modules else "absent"))
    return measure(*given)

onnx_runtime.OnnxRuntimeBackend.measure = spied
sys.exit(protocol.main([]))
"""


@pytest.fixture
def sessions():
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from tailfleet_agent.worker.backends import onnx_sessions

    return onnx_sessions


@pytest.fixture
def opened(sessions, tmp_path, monkeypatch):
    """Sessions over files of 100 bytes each, opened by a stand-in that notes what it was given."""
    made = []

    def session(path, options, providers):
        made.append((os.path.basename(path), options.pinned))
        return SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])

    class Options:
        def __init__(self):
            self.pinned = {}

        def add_free_dimension_override_by_name(self, name, value):
            self.pinned[name] = value

    monkeypatch.setattr(sessions.onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(sessions.onnxruntime, "SessionOptions", Options)
    for name in ("model", "mlp"):
        (tmp_path / (name + ".onnx")).write_bytes(b"x" * 60)
        (tmp_path / (name + ".onnx.data")).write_bytes(b"x" * 40)
    return sessions.Sessions("onnxruntime", "fp32", str(tmp_path)), made


def test_a_graph_is_loaded_once_for_each_of_its_counts(opened):
    kept, made = opened

    for counts in ({"n": 9}, {"n": 12}, {"n": 9}):
        kept.session("model", counts)
    kept.session("mlp", {})

    assert made == [("model.onnx", {"n": 9}), ("model.onnx", {"n": 12}), ("mlp.onnx", {})]


def test_sessions_used_longest_ago_make_room(opened):
    kept, made = opened
    kept._most_bytes = 250

    for n in (1, 2, 1, 3, 1, 2):
        kept.session("model", {"n": n})

    assert [pinned["n"] for _, pinned in made] == [1, 2, 3, 2]


def test_a_provider_that_could_not_be_loaded_is_refused_though_the_session_runs(opened, sessions):
    kept, _ = opened
    kept.providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]

    with pytest.raises(ConfigurationError, match="could not load its CUDAExecutionProvider"):
        kept.session("model", {})


def test_missing_providers_are_named_with_the_package(sessions, monkeypatch):
    monkeypatch.setattr(sessions.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(facts, "tensorrt_version", lambda: None)

    sessions.check("onnxruntime")
    for backend, provider, package in (
        ("onnxruntime-cuda", "CUDAExecutionProvider", "onnxruntime-gpu in place"),
        ("onnxruntime-tensorrt", "TensorrtExecutionProvider", "onnxruntime-gpu and tensorrt in place"),
    ):
        with pytest.raises(ConfigurationError, match=provider) as caught:
            sessions.check(backend)
        assert package in caught.value.mend


def test_jetpack_4s_tensorrt_is_refused_by_name(sessions, monkeypatch):
    monkeypatch.setattr(sessions.onnxruntime, "get_available_providers", lambda: list(sessions.PROVIDERS.values())[2])
    monkeypatch.setattr(facts, "tensorrt_version", lambda: "8.2.1")
    with pytest.raises(ConfigurationError, match=r"TensorRT 8\.2\.1 is too old"):
        sessions.check("onnxruntime-tensorrt")
    monkeypatch.setattr(facts, "tensorrt_version", lambda: "10.3.0")
    sessions.check("onnxruntime-tensorrt")


def test_tensorrt_is_known_by_its_librarys_name(tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "_module", lambda name: None)
    assert facts.tensorrt_version([str(tmp_path)]) is None
    (tmp_path / "libnvinfer.so.8").write_text("")
    (tmp_path / "libnvinfer.so.8.2.1").write_text("")
    (tmp_path / "libnvinfer.so.x").write_text("")

    assert facts.tensorrt_version([str(tmp_path)]) == "8.2.1"


def test_graphs_of_processes_that_are_gone_are_removed(sessions, tmp_path, monkeypatch):
    from tailfleet_agent.worker.backends import onnx_runtime

    monkeypatch.setattr(onnx_runtime.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(onnx_runtime.tempfile, "tempdir", str(tmp_path))
    for owner in ("999999999", str(os.getpid()), "x"):
        (tmp_path / "tailfleet-onnx-{}-a".format(owner)).mkdir()

    made = onnx_runtime._new_folder()

    left = sorted(path.name for path in tmp_path.iterdir() if str(path) != made)
    assert left == sorted(["tailfleet-onnx-{}-a".format(os.getpid()), "tailfleet-onnx-x-a"])
    assert os.path.isdir(made)


def test_the_exporter_names_a_package_that_is_missing(make_job, monkeypatch):
    from tailfleet_agent.worker.backends import onnx_export

    def lacking(name):
        raise ImportError(name)

    monkeypatch.setattr(onnx_export.importlib, "import_module", lacking)

    with pytest.raises(ConfigurationError, match="onnx is not installed for"):
        onnx_export.Exporter(make_job(backend="onnxruntime"), "")


def test_no_torch_is_loaded_until_timing_is_over_and_fidelity_is_judged_then(make_job, run_worker):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    units = [Unit(Part.SENTINEL, 17, 17), Unit(Part.MODEL, 9, 9), Unit(Part.FIDELITY, 17, 17)]
    job = make_job(units, "onnxruntime", rounds=2)

    status, events, errors = run_worker(codec.dumps(WorkerOrder(job)) + "\n", ["-c", SPY])

    assert status == 0, errors
    assert "torch is loaded" not in errors
    assert errors.count("torch is absent") == 4
    judged = [event.result.judgement for event in events if event.result and event.result.judgement]
    assert [(one.images, one.agreeing, one.correct, one.computed_on) for one in judged] == [(32, 32, 32, "board")]
    assert judged[0].kl_nats < 1e-6


def test_what_the_helper_cannot_do_is_said_as_its_own_sentence(make_job, tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from tailfleet_agent.worker.backends.onnx_helper import Helper

    failing = pytest.raises(InputError, match="unknown method 'magic'")
    with Helper(make_job(backend="onnxruntime"), "") as helper, failing:
        helper.write(str(tmp_path), "explicit", ["reduce-magic"])


@pytest.mark.parametrize(
    ("graphs", "cores", "free_bytes", "expected"),
    [
        (40, 8, float("inf"), 4),
        (40, 2, float("inf"), 2),
        (11, 8, float("inf"), 2),
        (3, 8, float("inf"), 1),
        (0, 8, float("inf"), 1),
        (40, 8, 5 * 1024.0**3, 3),
        (40, 8, 1024.0**3, 1),
    ],
)
def test_graphs_are_exported_by_as_many_processes_as_graphs_cores_and_memory_allow(
    make_job, monkeypatch, graphs, cores, free_bytes, expected
):
    from tailfleet_agent.worker.backends import memory, onnx_helper

    monkeypatch.setattr(onnx_helper.os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(memory, "free_bytes", lambda: free_bytes)
    geometry = make_job().workload.model.geometry
    assert onnx_helper.working_on(graphs, geometry, 1) == expected
    huge = replace(geometry, depth=48, dim=2048, mlp_dim=8192)  # 2.4 billion weights
    assert onnx_helper.working_on(graphs, huge, 1) == (expected if free_bytes == float("inf") else 1)


def test_helpers_share_graphs_and_each_says_what_it_cannot_do(make_job, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from tailfleet_agent.worker.backends import onnx_helper

    monkeypatch.setattr(onnx_helper, "EACH", 1)
    monkeypatch.setattr(onnx_helper.os, "sched_getaffinity", lambda _: {0, 1})
    with onnx_helper.Helper(make_job(backend="onnxruntime"), "") as helper:
        helper.write(str(tmp_path), "explicit", ["fixed", "mlp"])
        assert len(helper._processes) == 2
        assert {"fixed.onnx", "mlp.onnx", "images.npy", "tokens.npy"} <= {path.name for path in tmp_path.iterdir()}
        with pytest.raises(InputError, match="unknown method 'magic'"):
            helper.write(str(tmp_path), "explicit", ["model", "reduce-magic"])
        assert (tmp_path / "model.onnx").exists()
    assert all(one._process.returncode is not None for one in helper._processes)
