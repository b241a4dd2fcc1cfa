"""Facts and telemetry read from trees as a Nano, a TX2, an Orin and a desktop have them."""

import importlib
import pkgutil

import pytest

from tailfleet_agent import probes
from tailfleet_schema import codec
from tailfleet_schema.board import BoardFacts, BoardKind, Telemetry, fingerprint

CHILD = {
    "torch": "1.10.0",
    "timm": "0.6.12",
    "cuda": "10.2",
    "cudnn": "8201",
    "onnxruntime": None,
    "gpu": "NVIDIA Tegra X1",
    "gpu_sms": 1,
    "gpu_memory_bytes": 4156555264,
}

SENSORS = sorted(name for _, name, _ in pkgutil.iter_modules(probes.__path__) if name != "sysfile")


def facts(root, child=None):
    return probes.read_facts(BoardKind.PHYSICAL, None, child or {}, root)


def test_facts_of_a_nano(plant):
    told = facts(plant("nano"), CHILD)

    hardware, software = told.hardware, told.software
    assert (hardware.soc, hardware.cpu, hardware.cpu_cores) == ("NVIDIA Jetson Nano Developer Kit", "Cortex-A57", 4)
    assert hardware.memory_bytes == 4059216 * 1024
    assert (hardware.gpu, hardware.gpu_sms) == ("NVIDIA Tegra X1", 1)
    assert (software.os, software.kernel, software.l4t) == ("Ubuntu 18.04.6 LTS", "4.9.253-tegra", "32.7.1")
    assert (software.torch, software.timm, software.driver) == ("1.10.0", "0.6.12", None)
    assert codec.loads(BoardFacts, codec.dumps(told)) == told


def test_telemetry_of_a_nano(plant):
    told = probes.read_telemetry(plant("nano"))

    assert (told.power_mode, told.governor, told.cpu_mhz) == ("MAXN", "schedutil", [1479.0, 102.0])
    assert told.gpu_mhz == 921.6
    assert told.temperature_c == 44.5  # not the PMIC's constant 100
    assert told.power_mw == 4210  # the whole board, not the sum of it and its parts
    assert told.load_1m == 0.52
    assert told.memory_available_bytes == 2500000 * 1024
    assert told.taken_at.endswith("+00:00")
    assert codec.loads(Telemetry, codec.dumps(told)) == told


def test_a_tx2_has_two_kinds_of_cores_and_its_input_rail_on_the_second_monitor(plant):
    root = plant("tx2")

    assert facts(root).hardware.cpu == "Cortex-A57 and Denver 2"
    assert facts(root).software.l4t == "32.5.2"
    told = probes.read_telemetry(root)
    assert (told.power_mw, told.gpu_mhz, told.temperature_c) == (9120, 1300.5, 41.0)
    assert told.power_mode == "3"  # no configuration that names it


def test_an_orin_gives_volts_and_amperes_and_its_mode_by_name(plant):
    root = plant("orin")

    assert facts(root).software.driver == "540.4.0"
    assert facts(root).software.l4t == "36.4.0"
    assert facts(root).hardware.soc == "NVIDIA Jetson Orin Nano Developer Kit"
    told = probes.read_telemetry(root)
    assert told.power_mw == pytest.approx(5000 * 0.6 + 5000 * 0.3)
    assert (told.power_mode, told.gpu_mhz) == ("MAXN_SUPER", 1020.0)


def test_a_desktop_has_neither_device_tree_nor_power_rails(plant):
    root = plant("desktop")

    told = facts(root)
    assert (told.hardware.cpu, told.hardware.soc) == ("AMD Ryzen 7 5800X 8-Core Processor", None)
    assert told.software.os == "Debian GNU/Linux 13 (trixie)"
    assert (told.software.driver, told.software.l4t) == ("535.104.05", None)
    state = probes.read_telemetry(root)
    assert (state.temperature_c, state.power_mw, state.gpu_mhz, state.power_mode) == (61.0, None, None, None)
    assert state.cpu_mhz == [3600.0, 2200.5]
    assert state.governor is None


def test_governors_that_differ_are_all_told(plant):
    root = plant("nano", **{"sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance\n"})

    assert probes.read_telemetry(root).governor == "performance,schedutil"


def test_a_core_that_is_switched_off_is_left_out(plant):
    root = plant("nano", **{"sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "<unknown>\n"})

    assert probes.read_telemetry(root).cpu_mhz == [1479.0]


def test_machines_are_told_apart_and_recognised(plant, tmp_path):
    first = facts(plant("nano")).hardware.machine_id

    assert first == facts(plant("nano")).hardware.machine_id
    assert facts(plant("desktop")).hardware.machine_id != first
    assert "6f1c8d7a5f5b4c6a9f0e3d2c1b0a9f8e" not in first


def test_without_a_machine_id_the_network_cards_tell(plant):
    before = facts(plant("tx2")).hardware.machine_id

    assert facts(plant("tx2", **{"sys/class/net/docker0/address": "02:42:99:99:99:99\n"})).hardware.machine_id == before
    assert facts(plant("tx2", **{"sys/class/net/eth0/address": "00:04:4b:00:00:00\n"})).hardware.machine_id != before


def test_an_empty_tree_gives_nothing_and_no_error(plant):
    told = probes.read_telemetry(plant("nothing"))

    assert told == Telemetry(told.taken_at)
    assert facts(plant("nothing")).hardware.cpu == "unknown"
    assert facts(plant("nothing")).hardware.memory_bytes == 0
    assert len(facts(plant("nothing")).hardware.machine_id) == 32


@pytest.mark.parametrize("board", ["nano", "tx2", "orin", "desktop"])
@pytest.mark.parametrize("garbage", ["", "\0\xff garbage 12 : = []", "nan"])
def test_sensors_that_answer_nonsense_give_none(plant, boards, board, garbage):
    root = plant(board, **dict.fromkeys(boards[board], garbage))

    codec.loads(Telemetry, codec.dumps(probes.read_telemetry(root)))
    codec.loads(BoardFacts, codec.dumps(facts(root)))


def test_a_sensor_that_fails_in_any_way_gives_none(plant, monkeypatch):
    from tailfleet_agent.probes import thermal

    def fail(root):
        raise ZeroDivisionError

    monkeypatch.setattr(thermal, "read", fail)

    assert probes.read_telemetry(plant("nano")).temperature_c is None
    assert probes.read_telemetry(plant("nano")).gpu_mhz == 921.6


@pytest.mark.parametrize("name", SENSORS)
def test_every_sensor_has_the_same_two_doors(name, plant):
    sensor = importlib.import_module("tailfleet_agent.probes." + name)

    assert isinstance(sensor.available(plant("nothing")), bool)
    assert callable(sensor.read)


def test_a_virtual_board_has_the_modelled_hardware_on_this_machine(plant):
    child = {
        "gpu": "Tegra X2 (Pascal)",
        "gpu_sms": 2,
        "soc": "NVIDIA Jetson TX2",
        "architecture": "aarch64",
        "cpu": "Denver",
        "cpu_cores": 6,
        "memory_bytes": 8 << 30,
        "os": "modelled (torch 1.10)",
        "torch": None,
    }
    root = plant("desktop")

    told = probes.read_facts(BoardKind.VIRTUAL, "jetson-tx2", child, root)

    assert told.virtual_profile == "jetson-tx2"
    hardware = told.hardware
    assert (hardware.soc, hardware.cpu_cores, hardware.architecture) == ("NVIDIA Jetson TX2", 6, "aarch64")
    assert (told.software.os, told.software.kernel, told.software.torch) == ("modelled (torch 1.10)", "modelled", None)
    assert told.software.driver is None
    assert told.hardware.machine_id == facts(root).hardware.machine_id
    assert fingerprint(told) == fingerprint(probes.read_facts(BoardKind.VIRTUAL, "jetson-tx2", child, "/"))
