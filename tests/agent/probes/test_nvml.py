"""The GPU's library, by a stand-in with recorded answers, and by a compiled one over a real C interface."""

import os
import shutil
import subprocess
import sys

import pytest

from tailfleet_agent import probes
from tailfleet_agent.probes import nvml
from tailfleet_agent.probes.nvml import Session

NOT_SUPPORTED, NOT_FOUND, LOST = 3, 6, 15

RTX3060 = {
    "nvmlInit_v2": None,
    "nvmlDeviceGetHandleByIndex_v2": None,
    "nvmlDeviceGetHandleByUUID": None,
    "nvmlDeviceGetName": b"NVIDIA GeForce RTX 3060",
    "nvmlSystemGetDriverVersion": b"535.104.05",
    "nvmlDeviceGetMemoryInfo": 12884901888,
    "nvmlDeviceGetMaxClockInfo": {1: 2110, 2: 7501},
    "nvmlDeviceGetClockInfo": {1: 1777, 2: 7300},
    "nvmlDeviceGetTemperature": {0: 64},
    "nvmlDeviceGetPowerUsage": 143250,
    "nvmlDeviceGetTotalEnergyConsumption": 987654321,
    "nvmlDeviceGetCurrentClocksThrottleReasons": 0x0,
    "nvmlDeviceGetComputeRunningProcesses_v3": [],
}


class Refuses:
    """An answer: this error."""

    def __init__(self, status):
        self.status = status


class Library:
    """Answers as told; what is not told, this driver does not have. ``asked`` counts the calls."""

    def __init__(self, **changes):
        self.answers = {name: value for name, value in dict(RTX3060, **changes).items() if value != "absent"}
        self.asked = []

    def __getattr__(self, name):
        if name not in self.answers:
            raise AttributeError(name)

        def call(*arguments):
            self.asked.append((name, arguments))
            answer = self.answers[name]
            if isinstance(answer, Refuses):
                return answer.status
            if isinstance(answer, bytes):
                arguments[-2].value = answer
            elif isinstance(answer, dict):
                arguments[-1]._obj.value = answer[arguments[1].value]
            elif isinstance(answer, list):
                arguments[1]._obj.value = len(answer)
                for place, pid in enumerate(answer):
                    arguments[2][place].pid = pid
            elif name == "nvmlDeviceGetMemoryInfo":
                arguments[-1]._obj.total = answer
            elif answer is not None:
                arguments[-1]._obj.value = answer
            return 0

        return call


class Clock:
    def __init__(self):
        self.seconds = 100.0

    def __call__(self):
        return self.seconds


def session(library, environment=None, now=lambda: 0.0, exists=lambda pid: True):
    return Session(lambda: library, environment or {}, now, exists)


def test_what_an_rtx_3060_tells():
    told = session(Library()).read()

    assert told == nvml.Gpu(
        name="NVIDIA GeForce RTX 3060",
        driver="535.104.05",
        memory_bytes=12884901888,
        max_mhz=2110.0,
        sm_mhz=1777.0,
        memory_mhz=7300.0,
        temperature_c=64.0,
        power_mw=143250.0,
        energy_mj=987654321.0,
        throttled="",
        neighbours=0,
    )


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (0x0, ""),
        (0x1, ""),
        (0x2, ""),
        (0x100, ""),
        (0x4, "SW power cap"),
        (0x20, "SW thermal slowdown"),
        (0x40 | 0x8, "HW slowdown; HW thermal slowdown"),
        (0x80 | 0x1, "HW power brake"),
        (0x1000, "reason 0x1000 of the driver"),
    ],
)
def test_why_clocks_are_held_down_is_told_in_words(mask, words):
    library = Library(nvmlDeviceGetCurrentClocksThrottleReasons=mask)

    assert session(library).read().throttled == words


def test_newer_drivers_call_the_reasons_events():
    library = Library(nvmlDeviceGetCurrentClocksThrottleReasons="absent", nvmlDeviceGetCurrentClocksEventReasons=0x40)

    assert session(library).read().throttled == "HW thermal slowdown"


@pytest.mark.parametrize(
    ("call", "figure"),
    [
        ("nvmlDeviceGetName", "name"),
        ("nvmlSystemGetDriverVersion", "driver"),
        ("nvmlDeviceGetMemoryInfo", "memory_bytes"),
        ("nvmlDeviceGetMaxClockInfo", "max_mhz"),
        ("nvmlDeviceGetTemperature", "temperature_c"),
        ("nvmlDeviceGetPowerUsage", "power_mw"),
        ("nvmlDeviceGetTotalEnergyConsumption", "energy_mj"),
        ("nvmlDeviceGetCurrentClocksThrottleReasons", "throttled"),
        ("nvmlDeviceGetComputeRunningProcesses_v3", "neighbours"),
    ],
)
@pytest.mark.parametrize("answer", [Refuses(NOT_SUPPORTED), Refuses(999), "absent"])
def test_what_a_gpu_does_not_tell_is_none_and_the_rest_is_told(call, figure, answer):
    told = session(Library(**{call: answer})).read()

    assert getattr(told, figure) is None
    assert [name for name, value in told._asdict().items() if value is None] == [figure]


def test_a_jetsons_library_tells_its_name_only():
    silent = {
        name: Refuses(NOT_SUPPORTED) for name in RTX3060 if name.startswith("nvmlDeviceGet") and "Handle" not in name
    }
    library = Library(**dict(silent, nvmlDeviceGetName=b"Orin (nvgpu)"))

    assert session(library).read() == nvml.Gpu(name="Orin (nvgpu)", driver="535.104.05")


@pytest.mark.parametrize("call", ["nvmlDeviceGetName", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetMemoryInfo"])
def test_a_gpu_that_is_lost_gives_nothing_and_is_tried_again_after_a_while(call):
    clock = Clock()
    library = Library(**{call: Refuses(LOST)})
    gpu = session(library, now=clock)
    assert gpu.read() is None
    asked = len(library.asked)

    clock.seconds += nvml.RETRY_SECONDS - 1
    assert gpu.read() is None
    assert gpu.energy_mj() is None
    assert gpu.power_mw() is None
    assert len(library.asked) == asked
    library.answers.update(RTX3060)
    clock.seconds += 2
    assert gpu.read().sm_mhz == 1777.0


@pytest.mark.parametrize("call", ["nvmlInit_v2", "nvmlDeviceGetHandleByIndex_v2"])
@pytest.mark.parametrize("answer", [Refuses(9), "absent"])
def test_a_driver_that_does_not_start_gives_nothing(call, answer):
    assert session(Library(**{call: answer})).read() is None


def test_without_a_library_there_is_nothing():
    def load():
        raise OSError("libnvidia-ml.so.1: cannot open shared object file")

    assert Session(load).read() is None
    assert Session(load).energy_mj() is None


def test_handles_stay_open():
    library = Library()
    gpu = session(library)
    gpu.read()
    gpu.read()
    gpu.energy_mj()

    names = [name for name, _ in library.asked]
    assert names.count("nvmlInit_v2") == names.count("nvmlDeviceGetHandleByIndex_v2") == 1


def test_energy_and_power_are_one_call_each():
    library = Library()
    gpu = session(library)
    gpu.read()
    del library.asked[:]

    assert (gpu.energy_mj(), gpu.power_mw()) == (987654321.0, 143250.0)
    assert [name for name, _ in library.asked] == ["nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage"]


@pytest.mark.parametrize(
    ("shown", "name", "argument"),
    [
        (None, "nvmlDeviceGetHandleByIndex_v2", 0),
        ("2,0", "nvmlDeviceGetHandleByIndex_v2", 2),
        ("GPU-1,GPU-2", "nvmlDeviceGetHandleByUUID", b"GPU-1"),
        ("", "nvmlDeviceGetHandleByUUID", b""),
        ("-1", "nvmlDeviceGetHandleByUUID", b"-1"),
    ],
)
def test_the_gpu_is_the_first_that_cuda_is_shown(shown, name, argument):
    library = Library()
    session(library, {} if shown is None else {"CUDA_VISIBLE_DEVICES": shown}).read()

    asked = next(arguments[0] for called, arguments in library.asked if "Handle" in called and called == name)
    assert getattr(asked, "value", asked) == argument


def test_a_gpu_that_is_not_shown_is_not_asked():
    library = Library(nvmlDeviceGetHandleByUUID=Refuses(NOT_FOUND))

    assert session(library, {"CUDA_VISIBLE_DEVICES": ""}).read() is None


def test_this_process_is_nobodys_neighbour():
    library = Library(nvmlDeviceGetComputeRunningProcesses_v3=[os.getpid(), 4711, 4711, 12])

    assert session(library).read().neighbours == 2


def test_a_crowd_is_counted_by_the_library():
    class Crowded(Library):
        def __getattr__(self, name):
            if name != "nvmlDeviceGetComputeRunningProcesses_v3":
                return super().__getattr__(name)

            def call(handle, count, processes):
                count._obj.value = 65
                return 7

            return call

    assert session(Crowded()).read().neighbours == 65


def test_processes_of_another_namespace_are_not_counted():
    # One of them may be this one.
    library = Library(nvmlDeviceGetComputeRunningProcesses_v3=[31337])

    assert session(library, exists=lambda pid: False).read().neighbours is None


def test_an_older_driver_lists_processes_by_an_older_call():
    library = Library(nvmlDeviceGetComputeRunningProcesses_v3="absent", nvmlDeviceGetComputeRunningProcesses_v2=[4711])

    assert session(library).read().neighbours == 1


def test_of_a_recorded_tree_no_library_of_this_machine_is_asked(plant, monkeypatch):
    def never():
        raise AssertionError("asked")

    monkeypatch.setattr(nvml, "host", never)
    root = plant("desktop")

    assert probes.read_telemetry(root).gpu_mhz is None
    assert probes.read_energy_mj(True, root) is None
    assert probes.read_facts(probes.BoardKind.PHYSICAL, None, {}, root).hardware.gpu is None


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="shared objects of Linux")
def test_the_calls_pass_a_real_c_interface(tmp_path, monkeypatch):
    source = os.path.join(os.path.dirname(__file__), "nvml_stand_in.c")
    built = str(tmp_path / "libnvidia-ml.so.1")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", built, source], check=True)
    monkeypatch.setattr(nvml, "_LIBRARIES", ("/no/such/library.so.1", built))

    gpu = Session(environment={}, process_exists=lambda pid: True)

    assert gpu.read() == nvml.Gpu(
        "NVIDIA GeForce RTX 3060",
        "535.104.05",
        12884901888,
        2110.0,
        1777.0,
        7300.0,
        64.0,
        143250.0,
        9876543210123.0,
        "SW power cap; SW thermal slowdown",
        2,
    )
    assert Session(environment={"CUDA_VISIBLE_DEVICES": "GPU-1"}).energy_mj() == 9876543210123.0
    assert Session(environment={"CUDA_VISIBLE_DEVICES": "3"}).energy_mj() is None
