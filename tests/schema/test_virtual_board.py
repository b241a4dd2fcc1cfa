"""One line that asks for a virtual board: what it means, and how bad ones are refused."""

import dataclasses

import pytest

from tailfleet_schema.board import BoardFacts, BoardKind, Hardware, Software
from tailfleet_schema.errors import InputError
from tailfleet_schema.virtual_board import VirtualBoard, parse


def test_a_name_alone_is_a_board_with_everyday_noise():
    assert parse("jetson-tx2") == VirtualBoard("jetson-tx2")
    assert parse("jetson-tx2").noise == 0.01


def test_options_follow_a_colon():
    assert parse("jetson-tx2:noise=0.03,drift=0.05,bursts=0.3,seed=7") == VirtualBoard(
        "jetson-tx2", noise=0.03, drift=0.05, bursts=0.3, seed=7
    )
    assert parse("a100: throttle=2e-1, throttle-after-seconds=5") == VirtualBoard(
        "a100", throttle=0.2, throttle_after_seconds=5.0
    )


def test_every_option_can_be_given():
    names = [field.name for field in dataclasses.fields(VirtualBoard)[1:]]
    values = {name: 0.5 if name in ("noise", "spikes", "bursts", "throttle", "reversals") else 3 for name in names}

    board = parse("x:" + ",".join("{}={}".format(name.replace("_", "-"), values[name]) for name in names))

    assert {name: getattr(board, name) for name in names} == values


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "'' names no virtual board"),
        (":noise=0.1", "':noise=0.1' names no virtual board"),
        ("x:nois=0.1", "a virtual board has no option 'nois'; known: noise, spikes, drift, "),
        ("x:", "a virtual board has no option ''; known"),
        ("x:noise=0.1,", "a virtual board has no option ''; known"),
        ("x:board=y", "a virtual board has no option 'board'"),
        ("x:noise", "option noise of a virtual board must be a number from 0 to 1, not ''"),
        ("x:noise=much", "option noise of a virtual board must be a number from 0 to 1, not 'much'"),
        ("x:noise=nan", "must be a number from 0 to 1, not 'nan'"),
        ("x:noise=-0.1", "must be a number from 0 to 1, not '-0.1'"),
        ("x:bursts=1", "option bursts of a virtual board must be a number from 0 to 0.9, not '1'"),
        ("x:burst-factor=0.5", "option burst-factor of a virtual board must be a number from 1 to 100"),
        ("x:seed=1.5", "option seed of a virtual board must be a whole number from 0 to 2147483647, not '1.5'"),
        ("x:noise=0.1,noise=0.2", "option noise of a virtual board is given twice"),
        ("x:drift-seconds=5", "option drift-seconds of a virtual board means nothing without drift"),
        ("x:burst-factor=3,bursts=0", "option burst-factor of a virtual board means nothing without bursts"),
    ],
)
def test_a_bad_option_is_named(text, sentence):
    with pytest.raises(InputError) as caught:
        parse(text)
    assert sentence in caught.value.sentence
    assert "\n" not in caught.value.sentence


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x:nois=1", "virtual_profile: a virtual board has no option 'nois'"),
        ("x" * 129, "virtual_profile: has 129 characters; at most 128"),
        ("", "virtual_profile: is empty"),
    ],
)
def test_facts_of_a_board_hold_a_profile_that_can_be_read(text, sentence):
    hardware = Hardware("id", "aarch64", "modelled", 4, 4 << 30)
    software = Software("modelled", "modelled", "3.11", "0")
    with pytest.raises(InputError) as caught:
        BoardFacts(BoardKind.VIRTUAL, hardware, software, text)
    assert caught.value.sentence.startswith(sentence)
