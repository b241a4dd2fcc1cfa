"""A board's facts and sensors as lines that a person reads."""

import dataclasses

from tailfleet_agent import readout
from tailfleet_schema.board import BoardFacts, BoardKind, Hardware, Software, Telemetry, fingerprint

HARDWARE = Hardware(
    "m1", "aarch64", "Cortex-A57", 4, 4 << 30, "NVIDIA Jetson Nano Developer Kit", "NVIDIA Tegra X1", 1, 4 << 30, 921.6,
    "tegra210",
)  # fmt: skip
SOFTWARE = Software("Ubuntu 18.04.6 LTS", "4.9.253-tegra", "3.6.9", "0.1.0", "32.7.1", torch="1.10.0", jetpack="4.6.1")
FACTS = BoardFacts(BoardKind.PHYSICAL, HARDWARE, SOFTWARE)

STATE = Telemetry(
    "2026-01-01T00:00:00+00:00",
    power_mode="MAXN",
    governor="schedutil",
    cpu_mhz=[1479.0, 102.0],
    gpu_mhz=921.6,
    temperature_c=44.5,
    power_mw=4210.0,
    load_1m=0.52,
    memory_available_bytes=5 << 29,
    memory_mhz=1600.0,
    energy_mj=12345.6,
    throttled="SW power cap",
    gpu_governor="nvhost_podgov",
    temperatures_c={"AO-therm": 44.5, "CPU-therm": 37.5},
    power_of="module (POM_5V_IN)",
    energy_of="gpu",
    throttle_events=4,
    gpu_neighbours=1,
    uptime_seconds=25123.46,
    others_cpu_seconds=1470.2,
    stolen_cpu_seconds=0.0,
)


def test_facts_have_units_and_say_what_was_not_found():
    lines = readout.facts_lines(FACTS, "MAXN")

    assert "processor            Cortex-A57, 4 cores, aarch64" in lines
    assert "memory               4.0 GiB" in lines
    assert "GPU's highest clock  921.6 MHz" in lines
    assert "JetPack              4.6.1" in lines
    assert "fingerprint          {}, in power mode MAXN".format(fingerprint(FACTS, "MAXN")[:12]) in lines
    assert lines[-1] == "not found            NVIDIA driver, CUDA, cuDNN, TensorRT, timm, ONNX Runtime"


def test_a_virtual_board_says_so():
    virtual = dataclasses.replace(FACTS, kind=BoardKind.VIRTUAL, virtual_profile="jetson-nano")

    assert readout.facts_lines(virtual, None)[0] == "board                virtual (jetson-nano)"
    assert "without a power mode" in "\n".join(readout.facts_lines(virtual, None))


def test_every_figure_of_the_sensors_has_its_unit():
    assert readout.telemetry_lines(STATE, 3.21) == [
        "power mode           MAXN",
        "CPU clocks           1479, 102 MHz",
        "CPU governor         schedutil",
        "GPU clock            921.6 MHz",
        "GPU governor         nvhost_podgov",
        "memory clock         1600 MHz",
        "temperatures         AO-therm 44.5, CPU-therm 37.5 °C",
        "hottest              44.5 °C",
        "power                4.21 W of the module (POM_5V_IN)",
        "energy counter       12.35 J of the gpu",
        "throttled            SW power cap",
        "throttle events      4 so far",
        "GPU's neighbours     1 other",
        "memory available     2.5 GiB",
        "load                 0.52 processes over a minute",
        "up                   25123.5 s",
        "others' CPU time     1470.2 s",
        "stolen CPU time      0.0 s",
        "one reading takes    3.2 ms",
        "! throttled: SW power cap",
        "! 1 other process computes on the GPU",
    ]


def test_no_figure_of_a_reading_is_forgotten():
    shown = "\n".join(readout.telemetry_lines(STATE, 3.21))
    for field in dataclasses.fields(Telemetry):
        if field.name != "taken_at":
            bare = dataclasses.replace(STATE, **{field.name: getattr(Telemetry("x"), field.name)})
            assert "\n".join(readout.telemetry_lines(bare, 3.21)) != shown, field.name


def test_a_board_without_sensors_says_which_are_missing():
    lines = readout.telemetry_lines(Telemetry("x"), 0.5)

    assert lines[0] == "one reading takes    0.5 ms"
    assert lines[1].startswith("no sensor tells      power mode, CPU clocks, CPU governor, GPU clock")
    assert len(lines) == 2


def test_a_board_that_runs_free_says_so():
    assert "throttled            no" in readout.telemetry_lines(dataclasses.replace(STATE, throttled=""), 1.0)
