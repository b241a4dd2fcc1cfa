"""Facts and telemetry read from trees as a Nano, a TX2, an Orin and a desktop have them."""

import importlib
import pkgutil

import pytest

from tailfleet_agent import probes
from tailfleet_agent.probes import nvml, thermal
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


class Recorded(nvml.Session):
    """A GPU that tells this."""

    def __init__(self, told):
        super().__init__(environment={})
        self._told = told

    def read(self):
        return self._told

    def energy_mj(self):
        return self._told.energy_mj

    def power_mw(self):
        return self._told.power_mw


RTX3060 = Recorded(
    nvml.Gpu(
        "NVIDIA GeForce RTX 3060", "535.104.05", 12884901888, 2110.0, 1777.0, 7300.0, 74.0, 143250.0, 987654321.0,
        "SW power cap", 1,
    )
)  # fmt: skip

SENSORS = sorted(name for _, name, _ in pkgutil.iter_modules(probes.__path__) if name != "sysfile")


def facts(root, child=None):
    return probes.read_facts(BoardKind.PHYSICAL, None, child or {}, root)


def test_facts_of_a_nano(plant):
    told = facts(plant("nano"), CHILD)

    hardware, software = told.hardware, told.software
    assert (hardware.soc, hardware.chip) == ("NVIDIA Jetson Nano Developer Kit", "tegra210")
    assert (hardware.cpu, hardware.cpu_cores) == ("Cortex-A57", 4)
    assert hardware.memory_bytes == 4059216 * 1024
    assert (hardware.gpu, hardware.gpu_sms, hardware.gpu_max_mhz) == ("NVIDIA Tegra X1", 1, 921.6)
    assert (software.os, software.kernel, software.l4t) == ("Ubuntu 18.04.6 LTS", "4.9.253-tegra", "32.7.1")
    assert (software.jetpack, software.tensorrt) == ("4.6.1", "8.2.1")
    assert (software.torch, software.timm, software.driver) == ("1.10.0", "0.6.12", None)
    # What torch was built for goes before what is installed.
    assert (software.cuda, software.cudnn) == ("10.2", "8201")
    assert (facts(plant("nano")).software.cuda, facts(plant("nano")).software.cudnn) == ("10.2.300", "8.2.1.32")
    assert codec.loads(BoardFacts, codec.dumps(told)) == told


def test_telemetry_of_a_nano(plant):
    told = probes.read_telemetry(plant("nano"))

    assert (told.power_mode, told.governor, told.cpu_mhz) == ("MAXN", "schedutil", [1479.0, 102.0, 102.0, 1479.0])
    assert (told.gpu_mhz, told.gpu_governor, told.memory_mhz) == (921.6, "nvhost_podgov", 1600.0)
    # Neither the PMIC's constant 100 nor what the fan guesses.
    assert told.temperatures_c == {"AO-therm": 44.5, "CPU-therm": 37.5, "GPU-therm": 36.0, "PLL-therm": 35.5}
    assert told.temperature_c == 44.5
    # The whole module, not the sum of it and its parts.
    assert (told.power_mw, told.power_of) == (4210, "module (POM_5V_IN)")
    assert (told.energy_mj, told.energy_of) == (None, None)
    assert (told.throttled, told.throttle_events) == ("", None)
    assert told.load_1m == 0.52
    assert told.memory_available_bytes == 2500000 * 1024
    assert told.uptime_seconds == 25123.45
    assert told.others_cpu_seconds == pytest.approx((123456 + 100 + 23456 + 50 + 60) / 100.0)
    assert told.stolen_cpu_seconds == 0.0
    assert told.taken_at.endswith("+00:00")
    assert codec.loads(Telemetry, codec.dumps(told)) == told


def test_a_tx2_has_two_kinds_of_cores_and_its_input_rail_on_the_second_monitor(plant):
    root = plant("tx2")

    told = facts(root)
    assert (told.hardware.cpu, told.hardware.cpu_cores) == ("Cortex-A57 and Denver 2", 6)
    assert (told.hardware.soc, told.hardware.chip, told.hardware.gpu_max_mhz) == ("quill", "tegra186", 1300.5)
    assert (told.software.l4t, told.software.jetpack) == ("32.5.2", "4.5.1")
    assert (told.software.cuda, told.software.cudnn, told.software.driver) == ("10.2.89", None, None)
    state = probes.read_telemetry(root)
    assert (state.power_mw, state.power_of) == (9120, "module (VDD_IN)")
    assert (state.gpu_mhz, state.memory_mhz, state.power_mode) == (1300.5, 1866.0, "MAXP_CORE_ARM")
    # The GPU's zone sleeps, and the Denver cores are off.
    assert sorted(state.temperatures_c) == ["BCPU-therm", "MCPU-therm", "PLL-therm", "Tdiode_tegra"]
    assert (state.temperature_c, state.cpu_mhz) == (41.0, [2035.2, 2035.2, 345.6, 345.6])


def test_a_power_mode_that_no_configuration_names_is_a_number(plant):
    assert probes.read_telemetry(plant("tx2", {"etc/nvpmodel.conf": None})).power_mode == "3"


def test_an_orin_nano_gives_volts_and_amperes_and_counts_over_currents(plant):
    root = plant("orin")

    told = facts(root)
    assert (told.hardware.chip, told.hardware.cpu, told.hardware.gpu_max_mhz) == ("tegra234", "Cortex-A78AE", 1020.0)
    assert told.hardware.soc == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert (told.software.driver, told.software.l4t, told.software.jetpack) == ("540.4.0", "36.4.0", "6.1")
    assert (told.software.cuda, told.software.cudnn, told.software.tensorrt) == ("12.6.11", "9.3.0.75", "10.3.0.30")
    state = probes.read_telemetry(root)
    assert state.power_mw == pytest.approx(4984 * 1.856)
    assert state.power_of == "module (VDD_IN)"
    assert (state.power_mode, state.gpu_mhz, state.memory_mhz) == ("MAXN_SUPER", 1020.0, 3199.0)
    assert (state.temperature_c, "cv0-thermal" in state.temperatures_c) == (52.031, False)
    # Its fan is at work, which is no throttling.
    assert (state.throttled, state.throttle_events) == ("", 4)


def test_an_agx_orin_has_no_rail_of_the_whole_module(plant):
    root = plant("agx")

    told = facts(root)
    assert (told.software.l4t, told.software.jetpack, told.software.driver) == ("35.3.1", "5.1.1", "35.3.1")
    assert (told.software.cudnn, told.software.tensorrt) == ("8.6.0", "8.5.2")
    assert told.hardware.gpu_max_mhz == 930.75
    state = probes.read_telemetry(root)
    assert state.power_mw == pytest.approx(19832 * (0.240 + 0.040) + 4968 * (0.912 + 0.080))
    assert state.power_of == "rails (VDDQ_VDD2_1V8AO + VDD_CPU_CV + VDD_GPU_SOC + VIN_SYS_5V0)"
    # Parts that are switched off say -256.
    assert [zone for zone in state.temperatures_c if zone.startswith("CV")] == []
    assert (state.temperature_c, state.gpu_mhz, state.memory_mhz) == (48.312, 930.75, None)


def test_a_desktop_has_neither_device_tree_nor_power_rails(plant):
    root = plant("desktop")

    told = facts(root)
    assert (told.hardware.cpu, told.hardware.soc) == ("AMD Ryzen 7 5800X 8-Core Processor", None)
    assert (told.hardware.cpu_cores, told.hardware.chip) == (16, None)
    assert told.software.os == "Debian GNU/Linux 13 (trixie)"
    assert (told.software.driver, told.software.l4t, told.software.jetpack) == ("535.104.05", None, None)
    assert (told.software.cuda, told.software.tensorrt) == ("12.2.2", None)
    state = probes.read_telemetry(root)
    assert (state.power_mw, state.gpu_mhz, state.power_mode, state.memory_mhz) == (None, None, None, None)
    # Neither the mainboard's constant nor the disk's.
    assert (state.temperature_c, state.temperatures_c) == (61.0, {"k10temp": 61.0})
    assert state.cpu_mhz[:2] == [3600.0, 2200.5]
    assert (state.governor, state.throttled) == ("schedutil", "")
    assert (state.energy_mj, state.energy_of) == (30000000.0, "cpu")


def test_a_desktops_gpu_tells_by_its_library(plant):
    root = plant("desktop")

    told = probes.read_facts(BoardKind.PHYSICAL, None, {}, root, RTX3060)
    hardware = told.hardware
    assert (hardware.gpu, hardware.gpu_memory_bytes, hardware.gpu_max_mhz) == (
        "NVIDIA GeForce RTX 3060", 12884901888, 2110.0,
    )  # fmt: skip
    assert hardware.gpu_sms is None  # only torch knows
    state = probes.read_telemetry(root, RTX3060)
    assert (state.gpu_mhz, state.memory_mhz, state.gpu_neighbours) == (1777.0, 7300.0, 1)
    assert state.temperatures_c == {"k10temp": 61.0, "gpu": 74.0}
    assert state.temperature_c == 74.0
    assert (state.power_mw, state.power_of) == (143250.0, "gpu")
    assert (state.energy_mj, state.energy_of) == (987654321.0, "gpu")
    assert state.throttled == "SW power cap"


def test_what_the_kernel_and_the_gpu_hold_down_is_told_together(plant):
    hot = {"sys/class/thermal/cooling_device0/cur_state": "3\n", "sys/class/thermal/cooling_device1/cur_state": "3\n"}

    assert probes.read_telemetry(plant("desktop", hot), RTX3060).throttled == "cooling by Processor; SW power cap"


def test_torch_goes_before_the_library(plant):
    told = probes.read_facts(BoardKind.PHYSICAL, None, CHILD, plant("desktop"), RTX3060)

    assert (told.hardware.gpu, told.hardware.gpu_memory_bytes) == ("NVIDIA Tegra X1", 4156555264)


def test_a_jetsons_files_go_before_its_library(plant):
    state = probes.read_telemetry(plant("orin"), RTX3060)

    assert (state.gpu_mhz, state.memory_mhz) == (1020.0, 3199.0)
    assert state.power_of == "module (VDD_IN)"


def test_a_gpu_that_fails_in_any_way_gives_none(plant):
    class Broken(nvml.Session):
        def read(self):
            raise ZeroDivisionError

    state = probes.read_telemetry(plant("desktop"), Broken(environment={}))

    assert (state.gpu_mhz, state.temperature_c) == (None, 61.0)


def test_governors_that_differ_are_all_told(plant):
    root = plant("nano", {"sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance\n"})

    assert probes.read_telemetry(root).governor == "performance,schedutil"


def test_a_core_that_is_switched_off_is_left_out(plant):
    root = plant("nano", {"sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "<unknown>\n"})

    assert probes.read_telemetry(root).cpu_mhz == [1479.0, 102.0, 1479.0]


def test_machines_are_told_apart_and_recognised(plant, tmp_path):
    first = facts(plant("nano")).hardware.machine_id

    assert first == facts(plant("nano")).hardware.machine_id
    assert facts(plant("desktop")).hardware.machine_id != first
    assert "6f1c8d7a5f5b4c6a9f0e3d2c1b0a9f8e" not in first


def test_without_a_machine_id_the_network_cards_tell(plant):
    before = facts(plant("tx2")).hardware.machine_id

    assert facts(plant("tx2", {"sys/class/net/docker0/address": "02:42:99:99:99:99\n"})).hardware.machine_id == before
    assert facts(plant("tx2", {"sys/class/net/eth0/address": "00:04:4b:00:00:00\n"})).hardware.machine_id != before


def test_an_empty_tree_gives_nothing_and_no_error(plant):
    told = probes.read_telemetry(plant("nothing"))

    assert told == Telemetry(told.taken_at)
    assert facts(plant("nothing")).hardware.cpu == "unknown"
    assert facts(plant("nothing")).hardware.memory_bytes == 0
    assert len(facts(plant("nothing")).hardware.machine_id) == 32


@pytest.mark.parametrize("board", ["nano", "tx2", "agx", "orin", "desktop"])
@pytest.mark.parametrize("garbage", ["", "\0\xff garbage 12 : = []", "nan"])
def test_sensors_that_answer_nonsense_give_none(plant, boards, board, garbage):
    root = plant(board, dict.fromkeys(boards[board], garbage))

    codec.loads(Telemetry, codec.dumps(probes.read_telemetry(root)))
    codec.loads(BoardFacts, codec.dumps(facts(root)))


def test_a_sensor_that_fails_in_any_way_gives_none(plant, monkeypatch):
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


def test_a_sensor_that_fails_certifies_nothing(plant):
    # A cooling device that cannot be read may be at work; the sum of the other rails is another figure.
    silent = {
        "sys/class/thermal/cooling_device3/cur_state": "",
        "sys/class/hwmon/hwmon1/curr2_input": "",
        "sys/class/hwmon/hwmon3/oc1_event_cnt": "",
    }
    state = probes.read_telemetry(plant("orin", silent))

    assert (state.throttled, state.power_mw, state.power_of, state.throttle_events) == (None, None, None, None)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("gpu-throttle-alert", "cooling by gpu-throttle-alert"),
        ("cpu-balanced", "cooling by cpu-balanced"),
        ("thermal-cpufreq-0", "cooling by thermal-cpufreq-0"),
        ("devfreq-17000000.ga10b", "cooling by devfreq-17000000.ga10b"),
        ("hot-surface-alert", "cooling by hot-surface-alert"),
        ("pwm-fan", ""),
    ],
)
def test_a_board_that_cools_by_slowing_down_says_so(plant, kind, words):
    at_work = {
        "sys/class/thermal/cooling_device1/type": kind + "\n",
        "sys/class/thermal/cooling_device1/cur_state": "1\n",
    }

    assert probes.read_telemetry(plant("nano", at_work)).throttled == words


def test_a_board_without_such_devices_does_not_claim_to_run_free(plant):
    none = {"sys/class/thermal/cooling_device{}/type".format(number): "Fan\n" for number in range(3)}

    assert probes.read_telemetry(plant("nano", none)).throttled is None


def test_an_intel_cpu_counts_its_heat(plant):
    counts = {
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "2\n",
        "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "3\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "7\n",
        "sys/devices/system/cpu/cpu1/thermal_throttle/package_throttle_count": "7\n",
    }

    assert probes.read_telemetry(plant("desktop", counts)).throttle_events == 12


def test_an_over_current_that_does_not_throttle_is_not_counted(plant):
    assert probes.read_telemetry(plant("orin", {"sys/class/hwmon/hwmon3/oc3_throt_en": "0\n"})).throttle_events == 0


@pytest.mark.parametrize(("told", "mode"), [("balanced\n", "balanced"), ("low-power\n", "low-power"), ("?\n", None)])
def test_a_pcs_power_mode_is_its_platform_profile(plant, told, mode):
    assert probes.read_telemetry(plant("desktop", {"sys/firmware/acpi/platform_profile": told})).power_mode == mode


@pytest.mark.parametrize(
    ("folder", "mhz"), [("17000000.gv11b", 1109.25), ("17000000.ga10b", 918.0), ("gpu-gpc-0", 1575.0)]
)
def test_the_gpus_clock_is_found_on_every_generation(plant, folder, mhz):
    path = "sys/class/devfreq/{}/cur_freq".format(folder)

    assert probes.read_telemetry(plant("nothing", {path: "{:.0f}\n".format(mhz * 1e6)})).gpu_mhz == mhz


def test_a_thors_carrier_tells_the_whole_boards_power(plant):
    monitor = {
        "sys/class/hwmon/hwmon4/name": "ina238\n",
        "sys/class/hwmon/hwmon4/in1_label": "VIN\n",
        "sys/class/hwmon/hwmon4/power1_input": "150000000\n",
        "sys/class/hwmon/hwmon5/name": "ina3221\n",
        "sys/class/hwmon/hwmon5/in1_label": "VDD_GPU\n",
        "sys/class/hwmon/hwmon5/in1_input": "19700\n",
        "sys/class/hwmon/hwmon5/curr1_input": "5060\n",
    }
    state = probes.read_telemetry(plant("nothing", monitor))

    assert (state.power_mw, state.power_of) == (150000.0, "module (VIN)")


def test_a_thors_memory_has_its_clock_in_the_open(plant):
    assert (
        probes.read_telemetry(plant("nothing", {"sys/class/devfreq/bwmgr/cur_freq": "4266000000\n"})).memory_mhz == 4266
    )


def test_a_channel_that_nothing_is_wired_to_is_no_rail(plant):
    wired = {"in1_enable": "1\n", "in1_input": "5000\n", "curr1_input": "9000\n"}
    changes = {"sys/class/hwmon/hwmon4/" + name: text for name, text in wired.items()}

    assert "NC" not in probes.read_telemetry(plant("agx", changes)).power_of


def test_a_channel_that_is_switched_off_is_no_rail(plant):
    off = {"sys/class/hwmon/hwmon4/in2_enable": "0\n", "sys/class/hwmon/hwmon4/in2_input": ""}

    assert "VDDQ" not in probes.read_telemetry(plant("agx", off)).power_of


@pytest.mark.parametrize(
    ("release", "jetpack"),
    [
        ("R32 (release), REVISION: 4.4", "4.4.1"),
        ("R35 (release), REVISION: 1.0", "5.0.2"),
        ("R36 (release), REVISION: 4.3", "6.2"),
        ("R99 (release), REVISION: 1.0", None),
    ],
)
def test_the_jetpack_follows_from_the_release_where_no_package_tells(plant, release, jetpack):
    changes = {"etc/nv_tegra_release": "# {}, GCID: 1\n".format(release), "var/lib/dpkg/status": None}

    assert facts(plant("nano", changes)).software.jetpack == jetpack


def test_of_several_packages_the_newest_that_is_installed_counts(plant):
    stanza = "Package: {}\nStatus: {}\nVersion: {}\n\n"
    listed = [
        ("libnvinfer10", "install ok installed", "10.3.0.30-1+cuda12.5"),
        ("libnvinfer8", "install ok installed", "9.9.1-1+cuda10.2"),
        ("libnvinfer11", "deinstall ok config-files", "11.0.0-1+cuda13.0"),
        ("libnvinfer-plugin10", "install ok installed", "99.0-1"),
    ]
    status = {"var/lib/dpkg/status": "".join(stanza.format(*one) for one in listed)}

    assert facts(plant("nothing", status)).software.tensorrt == "10.3.0.30"


@pytest.mark.parametrize(
    "zone", ["PMIC-Die", "iwlwifi_1", "nvme", "thermal-fan-est", "Tboard_tegra", "INT3400 Thermal"]
)
def test_zones_that_tell_of_no_silicon_are_left_out(plant, zone):
    state = probes.read_telemetry(plant("nano", {"sys/class/thermal/thermal_zone0/type": zone + "\n"}))

    assert sorted(state.temperatures_c) == ["CPU-therm", "GPU-therm", "PLL-therm"]


def test_zones_of_one_name_are_told_apart(plant):
    state = probes.read_telemetry(plant("nano", {"sys/class/thermal/thermal_zone2/type": "CPU-therm\n"}))

    assert (state.temperatures_c["CPU-therm"], state.temperatures_c["CPU-therm 2"]) == (37.5, 36.0)


def test_a_machine_is_asked_for_its_own_state_without_an_error():
    first, second = probes.read_telemetry(), probes.read_telemetry()

    assert codec.loads(Telemetry, codec.dumps(first)) == first
    if first.uptime_seconds is not None and first.others_cpu_seconds is not None:
        assert second.uptime_seconds >= first.uptime_seconds
        assert second.others_cpu_seconds is not None


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

    told = probes.read_facts(BoardKind.VIRTUAL, "jetson-tx2", child, root, RTX3060)

    assert told.virtual_profile == "jetson-tx2"
    hardware = told.hardware
    assert (hardware.soc, hardware.cpu_cores, hardware.architecture) == ("NVIDIA Jetson TX2", 6, "aarch64")
    assert (told.software.os, told.software.kernel, told.software.torch) == ("modelled (torch 1.10)", "modelled", None)
    # Nothing of the machine that computes it.
    software = told.software
    assert (software.driver, software.cuda, software.cudnn, software.tensorrt, software.jetpack) == (None,) * 5
    assert (hardware.chip, hardware.gpu_max_mhz, hardware.gpu) == (None, None, "Tegra X2 (Pascal)")
    assert told.hardware.machine_id == facts(root).hardware.machine_id
    assert fingerprint(told) == fingerprint(probes.read_facts(BoardKind.VIRTUAL, "jetson-tx2", child, "/"))
