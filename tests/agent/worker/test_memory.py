"""Memory: each runtime's way to say that there is too little, and the peak of this process."""

import pytest

from tailfleet_agent.worker.backends import OutOfMemory, memory


class Fail(Exception):
    """ONNX Runtime's exceptions derive from Exception alone."""


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemory("no"),
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        Fail("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 9"),
        Fail("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc"),
        Fail("bfc_arena.cc: Available memory of 1024 is smaller than requested bytes of 2048"),
        Fail("TensorRT: OutOfMemory: no implementation fits the workspace"),
    ],
)
def test_too_little_memory_is_recognised_and_told_in_one_way(error):
    assert memory.is_out_of_memory(error)
    with pytest.raises(OutOfMemory), memory.told():
        raise error


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes"), Fail("INVALID_ARGUMENT"), KeyError("x")])
def test_other_errors_stay_what_they_are(error):
    assert not memory.is_out_of_memory(error)
    with pytest.raises(type(error)) as caught, memory.told():
        raise error
    assert caught.value is error


def test_the_peak_is_counted_anew_from_a_reset_on(tmp_path):
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t  1234 kB\nVmRSS:\t  1000 kB\n")
    (tmp_path / "clear_refs").write_text("")
    peak = memory.ResidentPeak(str(tmp_path))
    assert peak.read() is None

    peak.reset()

    assert (tmp_path / "clear_refs").read_text() == "5"
    assert peak.read() == 1234 * 1024


def test_where_the_kernel_does_not_let_one_reset_nothing_is_told(tmp_path):
    (tmp_path / "status").write_text("VmHWM:\t  1234 kB\n")
    peak = memory.ResidentPeak(str(tmp_path / "absent"))

    peak.reset()

    assert peak.read() is None


@pytest.mark.parametrize("text", ["", "VmHWM:\n", "VmHWM:\tmuch\n"])
def test_a_kernel_that_says_something_else_tells_nothing(tmp_path, text):
    (tmp_path / "status").write_text(text)
    (tmp_path / "clear_refs").write_text("")
    peak = memory.ResidentPeak(str(tmp_path))
    peak.reset()

    assert peak.read() is None
