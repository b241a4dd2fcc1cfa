"""jtop's service as a last resort: asked between jobs only, and never an error."""

import sys
import types

import pytest

from tailfleet_agent import probes
from tailfleet_agent.probes import jtop


def package(stats, memory=None, gpu=None, answers=True):
    """A stand-in for jtop's package."""

    class Service:
        def __enter__(self):
            if isinstance(stats, Exception):
                raise stats
            return self

        def __exit__(self, *_):
            return False

        def ok(self):
            return answers

    Service.stats, Service.memory, Service.gpu = stats, memory, gpu
    module = types.ModuleType("jtop")
    module.jtop = Service
    return module


@pytest.fixture
def serve(monkeypatch):
    """Lets jtop's service listen, with this package to ask it."""

    def make(module):
        monkeypatch.setitem(sys.modules, "jtop", module)
        monkeypatch.setattr(jtop, "available", lambda root: True)

    return make


VERSION_4 = {
    "nvp model": "15W",
    "Power TOT": 5012,
    "Temp CPU": 48.5,
    "Temp GPU": 47.0,
    "Temp CV0": -256,
    "GPU": 12,
    "RAM": 0.4,
}


def test_it_tells_what_no_file_tells(plant, serve):
    serve(package(VERSION_4, {"EMC": {"cur": 2133000}}, {"gpu": {"freq": {"cur": 624750}}}))

    told = probes.read_telemetry(plant("nothing"), between_jobs=True)

    assert (told.power_mode, told.power_mw, told.power_of) == ("15W", 5012.0, "module (jtop)")
    assert (told.temperature_c, told.gpu_mhz, told.memory_mhz) == (48.5, 624.75, 2133.0)


def test_files_go_before_it(plant, serve):
    serve(package(VERSION_4, {"EMC": {"cur": 2133000}}, {"gpu": {"freq": {"cur": 624750}}}))
    root = plant("orin", {"sys/kernel/debug/bpmp/debug/clk/emc/rate": None})

    told = probes.read_telemetry(root, between_jobs=True)

    assert (told.power_mode, told.power_of, told.gpu_mhz) == ("MAXN_SUPER", "module (VDD_IN)", 1020.0)
    # Debugfs is closed to users, jtop's service is not.
    assert told.memory_mhz == 2133.0


def test_version_3_counts_power_by_another_name(plant, serve):
    serve(package({"nvp model": "MAXN", "power cur": 4859}))

    told = probes.read_telemetry(plant("nothing"), between_jobs=True)

    assert (told.power_mw, told.gpu_mhz, told.memory_mhz, told.temperature_c) == (4859.0, None, None, None)


@pytest.mark.parametrize("module", [package(RuntimeError("no service")), package({}, answers=False), None])
def test_a_service_that_does_not_answer_gives_none(plant, serve, module):
    serve(module)

    told = probes.read_telemetry(plant("nothing"), between_jobs=True)

    assert (told.power_mw, told.power_mode) == (None, None)


def test_a_sensor_that_is_offline_is_none(plant, serve):
    serve(package({"Temp CV0": -256, "Temp CV1": None}))

    assert probes.read_telemetry(plant("nothing"), between_jobs=True).temperature_c is None


def test_while_a_job_runs_it_is_left_alone(plant, serve):
    serve(package(VERSION_4))

    assert probes.read_telemetry(plant("nothing")).power_mw is None


def test_of_a_recorded_tree_nobody_is_asked(plant):
    assert not jtop.available(plant("orin", {"run/jtop.sock": ""}))
