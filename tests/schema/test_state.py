"""What two readings of a board's sensors say in words, and what they must not say."""

import dataclasses

import pytest

from tailfleet_schema.board import Telemetry
from tailfleet_schema.state import changes, hindrances

QUIET = Telemetry(
    "2026-01-01T00:00:00+00:00",
    power_mode="MAXN",
    governor="schedutil",
    cpu_mhz=[1479.0, 102.0],
    gpu_mhz=921.0,
    temperature_c=45.0,
    memory_mhz=1600.0,
    throttled="",
    gpu_governor="nvhost_podgov",
    temperatures_c={"CPU-therm": 45.0, "GPU-therm": 40.0},
    throttle_events=3,
    gpu_neighbours=0,
    uptime_seconds=1000.0,
    others_cpu_seconds=50.0,
    stolen_cpu_seconds=1.0,
)


def after(**values):
    return dataclasses.replace(QUIET, **values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"gpu_mhz": 640.0}, "GPU clock fell from 921 to 640 MHz"),
        ({"gpu_mhz": 998.4}, "GPU clock rose from 921 to 998 MHz"),
        ({"memory_mhz": 800.0}, "memory clock fell from 1600 to 800 MHz"),
        ({"cpu_mhz": [102.0, 1200.0]}, "clock of the fastest core fell from 1479 to 1200 MHz"),
        ({"cpu_mhz": [1479.0]}, "cores that are on changed from 2 to 1"),
        ({"power_mode": "5W"}, "power mode changed from MAXN to 5W"),
        ({"governor": "performance"}, "governor of the CPU changed from schedutil to performance"),
        ({"gpu_governor": "userspace"}, "governor of the GPU changed from nvhost_podgov to userspace"),
        ({"throttled": "SW thermal slowdown"}, "throttled: SW thermal slowdown"),
        ({"throttle_events": 5}, "throttled 2 times in between, as the hardware counts"),
        (
            {"temperature_c": 83.0, "temperatures_c": {"CPU-therm": 83.0, "GPU-therm": 45.0}},
            "temperature rose from 45 to 83 °C",
        ),
        ({"temperatures_c": {"CPU-therm": 45.0, "GPU-therm": 29.0}}, "temperature of GPU-therm fell from 40 to 29 °C"),
        ({"gpu_neighbours": 1}, "1 other process computes on the GPU"),
        ({"gpu_neighbours": 2}, "2 other processes compute on the GPU"),
        ({"uptime_seconds": 1002.0, "others_cpu_seconds": 51.0}, "other processes used 0.5 cores"),
        ({"uptime_seconds": 1002.0, "stolen_cpu_seconds": 1.5}, "the host gave 0.2 cores to others"),
        ({"uptime_seconds": 30.0, "gpu_mhz": 114.0}, "the board was restarted"),
    ],
)
def test_each_change_has_its_words(values, words):
    assert changes(QUIET, after(**values)) == [words]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"gpu_mhz": 890.0},
        {"memory_mhz": 1590.0},
        {"cpu_mhz": [1400.0, 1400.0]},
        {"temperature_c": 54.0, "temperatures_c": {"CPU-therm": 54.0, "GPU-therm": 49.0}},
        {"uptime_seconds": 1002.0, "others_cpu_seconds": 50.3, "stolen_cpu_seconds": 1.1},
        # Too close together to say how busy others were.
        {"uptime_seconds": 1000.2, "others_cpu_seconds": 50.1},
        {"power_mw": 9000.0, "load_1m": 7.0, "memory_available_bytes": 1},
    ],
)
def test_what_moves_by_itself_is_not_told(values):
    assert changes(QUIET, after(**values)) == []


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Telemetry) if field.name != "taken_at"])
def test_a_sensor_that_fell_silent_says_nothing(name):
    silent = after(**{name: getattr(Telemetry("x"), name)})

    assert changes(QUIET, silent) == []
    assert changes(silent, QUIET) == []


def test_the_gravest_comes_first_and_known_reasons_are_not_repeated():
    before = after(throttled="SW power cap")
    hot = after(throttled="SW power cap; HW thermal slowdown", power_mode="5W", gpu_mhz=640.0)

    assert changes(before, hot) == [
        "power mode changed from MAXN to 5W",
        "throttled: HW thermal slowdown",
        "GPU clock fell from 921 to 640 MHz",
    ]
    assert changes(hot, dataclasses.replace(hot, throttled="")) == []


def test_throttling_from_the_beginning_is_told_of_one_reading():
    assert hindrances(QUIET) == []
    assert hindrances(Telemetry("x")) == []
    assert hindrances(after(throttled="cooling: gpu-throttle-alert", gpu_neighbours=1)) == [
        "throttled: cooling: gpu-throttle-alert",
        "1 other process computes on the GPU",
    ]
