import dataclasses

import pytest

from tailfleet_schema import codec
from tailfleet_schema.board import BoardFacts, BoardKind, Hardware, Software, Telemetry, fingerprint
from tailfleet_schema.errors import InputError

HARDWARE = Hardware("id-1", "aarch64", "Cortex-A57", 4, 4 << 30, soc="jetson-nano")
SOFTWARE = Software("Ubuntu 18.04", "4.9.253", "3.6.9", "0.1.0", torch="1.10.2")
FACTS = BoardFacts(BoardKind.PHYSICAL, HARDWARE, SOFTWARE)


def changed(facts, part, **values):
    return dataclasses.replace(facts, **{part: dataclasses.replace(getattr(facts, part), **values)})


def test_a_fingerprint_ages_with_what_decides_latency_only():
    assert fingerprint(FACTS) == fingerprint(changed(FACTS, "software", agent="0.2.0"))
    assert fingerprint(FACTS) == fingerprint(changed(FACTS, "hardware", machine_id="id-2"))
    assert fingerprint(FACTS) != fingerprint(changed(FACTS, "software", torch="1.11.0"))
    assert fingerprint(FACTS) != fingerprint(FACTS, power_mode="MAXN")


def test_a_virtual_board_is_its_profile_and_nothing_else():
    virtual = dataclasses.replace(FACTS, kind=BoardKind.VIRTUAL, virtual_profile="jetson-nano")
    assert fingerprint(virtual) == fingerprint(changed(virtual, "software", torch="2.0"))
    assert fingerprint(virtual) != fingerprint(dataclasses.replace(virtual, virtual_profile="jetson-tx2"))
    assert fingerprint(virtual) != fingerprint(FACTS)


@pytest.mark.parametrize(("kind", "profile"), [(BoardKind.PHYSICAL, "jetson-nano"), (BoardKind.VIRTUAL, None)])
def test_a_profile_belongs_to_virtual_boards(kind, profile):
    with pytest.raises(InputError, match="virtual_profile"):
        BoardFacts(kind, HARDWARE, SOFTWARE, profile)


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("software", {"driver": "550.54.14"}),
        ("software", {"l4t": "32.7.4"}),
        ("software", {"jetpack": "4.6.4"}),
        ("software", {"cuda": "10.2"}),
        ("software", {"cudnn": "8201"}),
        ("software", {"tensorrt": "8.2.1"}),
        ("software", {"onnxruntime": "1.11.0"}),
        ("software", {"timm": "0.6.12"}),
        ("software", {"kernel": "4.9.337"}),
        ("software", {"python": "3.8.10"}),
        ("hardware", {"gpu_max_mhz": 921.6}),
        ("hardware", {"gpu_sms": 1}),
        ("hardware", {"chip": "tegra210"}),
        ("hardware", {"cpu_cores": 2}),
        ("hardware", {"memory_bytes": 2 << 30}),
    ],
)
def test_whatever_may_change_a_latency_ages_curves(part, values):
    assert fingerprint(changed(FACTS, part, **values), "MAXN") != fingerprint(FACTS, "MAXN")


def test_a_changed_power_mode_ages_curves():
    assert len({fingerprint(FACTS, mode) for mode in (None, "MAXN", "5W", "balanced")}) == 4


def test_every_fact_decides_but_those_that_are_named_here():
    # Whoever adds a fact decides whether it ages curves.
    deaf = {"machine_id", "agent"}
    for part in ("hardware", "software"):
        for field in dataclasses.fields(getattr(FACTS, part)):
            value = getattr(getattr(FACTS, part), field.name)
            other = changed(FACTS, part, **{field.name: 7 if isinstance(value, int) else "other"})
            assert (fingerprint(other) == fingerprint(FACTS)) == (field.name in deaf), field.name


def test_facts_of_an_earlier_release_decode_and_keep_their_fingerprint():
    # As release 0.1 wrote them.
    told = (
        '{"hardware":{"architecture":"aarch64","cpu":"Cortex-A57","cpu_cores":4,"gpu":null,"gpu_memory_bytes":null,'
        '"gpu_sms":null,"machine_id":"id-1","memory_bytes":4294967296,"soc":"jetson-nano"},"kind":"physical",'
        '"software":{"agent":"0.1.0","cuda":null,"cudnn":null,"driver":null,"kernel":"4.9.253","l4t":null,'
        '"onnxruntime":null,"os":"Ubuntu 18.04","python":"3.6.9","timm":null,"torch":"1.10.2"},"virtual_profile":null}'
    )

    assert codec.loads(BoardFacts, told) == FACTS
    assert fingerprint(FACTS, "MAXN") == "8db5fe12d7eb47051261502d8209ddec4c02d5f1add9f2c6e384cf66563d708c"


def test_telemetry_of_an_earlier_release_decodes():
    told = codec.loads(
        Telemetry,
        '{"cpu_mhz":[1479.0],"governor":"schedutil","gpu_mhz":921.6,"load_1m":0.5,"memory_available_bytes":1,'
        '"power_mode":"MAXN","power_mw":4210.0,"taken_at":"2026-01-01T00:00:00+00:00","temperature_c":44.5}',
    )

    assert (told.gpu_mhz, told.throttled, told.temperatures_c) == (921.6, None, {})
