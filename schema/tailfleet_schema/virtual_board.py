"""How a virtual board is asked for, in one line of text: the board, and how it is disturbed.

    jetson-tx2
    jetson-tx2:noise=0.03,drift=0.05,bursts=0.3,seed=7

Read in this one place by both sides, so that the coordinator refuses a bad option when the board is promised. Which
boards there are, and what the options do to a latency, is left to the agent's backend ``virtual``.

Seconds are *virtual time*: what the calls that a job has made so far would have taken on the board. Nothing sleeps.
"""

from dataclasses import dataclass, fields
from typing import Dict, Tuple, Union

from tailfleet_schema.errors import InputError
from tailfleet_schema.limits import COUNT_MAX, check_name


@dataclass(frozen=True)
class VirtualBoard:
    """A modelled board and its surroundings. Each field but the first is an option; in text ``_`` is ``-``.

    Disturbances only slow a board down: the noiseless truth is the board left alone.
    """

    board: str
    noise: float = 0.01
    """Everyday scatter of a call: the standard deviation, as a share of the truth."""
    spikes: float = 0.004
    """Share of calls that take up to two and a half times as long."""
    drift: float = 0.0
    """Height of a slow wave: calls are up to this share slower at its crest."""
    drift_seconds: float = 20.0
    """From crest to crest."""
    ramp: float = 0.0
    """Calls get slower, evenly, by this share; then they stay so."""
    ramp_seconds: float = 20.0
    """How long that takes."""
    bursts: float = 0.0
    """Share of the time in which a neighbour is busy."""
    burst_seconds: float = 0.5
    """Mean length of such a time; both lengths, busy and quiet, are exponential."""
    burst_factor: float = 2.0
    """How much slower calls, or what falls into it of a call, are meanwhile."""
    throttle: float = 0.0
    """Share by which the GPU's clock falls when the board has become hot; what is bound by memory stays."""
    throttle_after_seconds: float = 10.0
    """At full clock, until it falls."""
    throttle_for_seconds: float = 0.0
    """Until it is back, and the next ones at full clock begin; 0: it stays down."""
    reversals: float = 0.0
    """Share of the ranges of rows, of each matrix product, for which the board's BLAS chooses badly: more tokens may
    then be faster. Part of the truth."""
    seed: int = 0
    """Makes another board of the same kind: of its noise, disturbances and reversals."""


_RANGES: Dict[str, Tuple[float, float]] = {
    "noise": (0, 1),
    "spikes": (0, 1),
    "drift": (0, 10),
    "drift_seconds": (1e-3, 1e6),
    "ramp": (0, 10),
    "ramp_seconds": (1e-3, 1e6),
    "bursts": (0, 0.9),
    "burst_seconds": (1e-3, 1e6),
    "burst_factor": (1, 100),
    "throttle": (0, 0.9),
    "throttle_after_seconds": (0, 1e6),
    "throttle_for_seconds": (0, 1e6),
    "reversals": (0, 1),
    "seed": (0, COUNT_MAX),
}

_MEANT_WITH = {
    "drift_seconds": "drift",
    "ramp_seconds": "ramp",
    "burst_seconds": "bursts",
    "burst_factor": "bursts",
    "throttle_after_seconds": "throttle",
    "throttle_for_seconds": "throttle",
}
"""Options that say nothing without another."""


def parse(text: str) -> VirtualBoard:
    """What ``text`` asks for; whether there is such a board is not asked.

    Raises ``InputError`` that names the option.
    """
    board, colon, rest = text.partition(":")
    if not board:
        raise InputError("{!r} names no virtual board".format(text))
    given: Dict[str, float] = {}
    for option in rest.split(",") if colon else []:
        name, equals, value = option.partition("=")
        field = name.strip().replace("-", "_")
        if field not in _RANGES:
            raise InputError("a virtual board has no option {!r}; known: {}".format(name.strip(), ", ".join(OPTIONS)))
        if field in given:
            raise InputError("option {} of a virtual board is given twice".format(_words(field)))
        given[field] = _number(field, value.strip() if equals else "")
    for field, other in _MEANT_WITH.items():
        if field in given and not given.get(other):
            raise InputError("option {} of a virtual board means nothing without {}".format(_words(field), other))
    return VirtualBoard(board, **given)  # type: ignore[arg-type]


def check_profile(path: str, text: str) -> None:
    """Refuse what is longer than is stored, or asks for nothing that ``parse`` knows."""
    check_name(path, text)
    try:
        parse(text)
    except InputError as error:
        raise InputError(error.problem, path=path)


def _number(field: str, text: str) -> Union[int, float]:
    low, high = _RANGES[field]
    whole = field == "seed"
    try:
        value: Union[int, float] = int(text) if whole else float(text)
    except ValueError:
        value = float("nan")
    # Not a number is not within any range either.
    if not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        problem = "option {} of a virtual board must be {} from {:.15g} to {:.15g}, not {!r}"
        raise InputError(problem.format(_words(field), kind, low, high, text[:40]))
    return value


def _words(field: str) -> str:
    return field.replace("_", "-")


OPTIONS = [_words(field.name) for field in fields(VirtualBoard)[1:]]
"""Names of the options, as the text has them."""
