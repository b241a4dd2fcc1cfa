"""Objectives as people write them: ``max-accuracy-drop=1.0``, ``latency-budget=12ms``, ``latency-budget=0.8x``,
``utility=0.5``; several are joined by commas."""

from tailfleet_schema.campaign import Objective
from tailfleet_schema.errors import InputError

FORMS = "max-accuracy-drop=1.0, latency-budget=0.8x, latency-budget=12ms, utility=0.5"

UNITS_NS = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}


def parse(text: str) -> Objective:
    """The objective that ``text`` means. Raises ``InputError``."""
    values: dict[str, float | int] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals or not value:
            raise InputError(f"cannot read the objective {part.strip()!r}; forms: {FORMS}")
        field, number = _term(name.strip(), value.strip())
        if field in values:
            raise InputError(f"the objective gives {name.strip()} twice")
        values[field] = number
    return Objective(**values)  # type: ignore[arg-type]


def _term(name: str, value: str) -> tuple[str, float | int]:
    if name == "max-accuracy-drop":
        return "max_accuracy_drop", _number(value.removesuffix("%"), value)
    if name in ("utility", "utility-alpha"):
        return "utility_alpha", _number(value, value)
    if name != "latency-budget":
        raise InputError(f"unknown objective {name!r}; forms: {FORMS}")
    if value.endswith("x"):
        return "latency_share", _number(value[:-1], value)
    for unit in ("ns", "us", "ms", "s"):
        if value.endswith(unit):
            return "latency_ns", round(_number(value.removesuffix(unit), value) * UNITS_NS[unit])
    raise InputError(f"a latency budget needs a unit (ms, us, s) or x for a share of dense, not {value!r}")


def _number(text: str, shown: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise InputError(f"not a number: {shown!r}") from None
    if not -1e18 < number < 1e18:
        raise InputError(f"not a finite number: {shown!r}")
    return number
