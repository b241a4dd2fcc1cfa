import dataclasses

import pytest

from tailfleet_schema.board import BoardFacts, BoardKind, Hardware, Software, fingerprint
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
