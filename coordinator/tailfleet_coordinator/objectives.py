"""Objectives as people write them: ``max-accuracy-drop=1.0``, ``latency-budget=12ms``, ``latency-budget=0.8x``,
``utility=0.5``, ``front``, ``deadline=30ms``; several are joined by commas. And back: the same text, and in words.
"""

from tailfleet_schema.campaign import Objective, Statistic
from tailfleet_schema.errors import InputError

FORMS = "max-accuracy-drop=1.0, latency-budget=0.8x, latency-budget=12ms, utility=0.5, front, deadline=30ms"

DEFAULT = "max-accuracy-drop=1.0,latency-budget=0.8x"

UNLABELLED = " (without labels: of agreement with the dense model)"

UNITS_NS = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}


def gathered(
    objective: str | None,
    latency_budget: str | None = None,
    max_accuracy_drop: str | None = None,
    utility: str | None = None,
    front: bool = False,
    deadline: str | None = None,
) -> str:
    """One text of what options say, each the same as its form in ``objective``; ``DEFAULT`` where none says anything.

    Raises ``InputError`` where both ways are mixed.
    """
    forms = (
        ("latency-budget", latency_budget),
        ("max-accuracy-drop", max_accuracy_drop),
        ("utility", utility),
        ("deadline", deadline),
    )
    # ``--utility alpha=0.5`` names what it gives.
    given = [f"{name}={value.strip().removeprefix('alpha=')}" for name, value in forms if value is not None]
    given += ["front"] * front
    if objective is not None and given:
        raise InputError(f"--objective already says what to achieve; say it once: --objective {objective},{given[0]}")
    return objective if objective is not None else ",".join(given) or DEFAULT


def parse(text: str, on: str = Statistic.QUIET.value) -> Objective:
    """The objective that ``text`` means, its latencies ``on`` a statistic by name. Raises ``InputError``."""
    values: dict[str, float | int] = {}
    for part in text.split(","):
        if part.strip() == "front":
            values["front"] = True
            continue
        name, equals, value = part.strip().partition("=")
        if not equals or not value:
            raise InputError(f"cannot read the objective {part.strip()!r}; forms: {FORMS}")
        field, number = _term(name.strip(), value.strip())
        if field in values:
            raise InputError(f"the objective gives {name.strip()} twice")
        values[field] = number
    return Objective(**values, on=_statistic(on))  # type: ignore[arg-type]


def written(objective: Objective) -> str:
    """The text that ``parse`` reads as ``objective``; its statistic is an option of its own."""
    terms = {
        "max-accuracy-drop": objective.max_accuracy_drop,
        "latency-budget": None if objective.latency_share is None else f"{objective.latency_share!r}x",
        "utility": objective.utility_alpha,
    }
    for name, ns in (("latency-budget", objective.latency_ns), ("deadline", objective.deadline_ns)):
        if ns is not None:
            terms[name] = f"{ns}ns"
    return ",".join(
        ["front"] * objective.front + [f"{name}={value}" for name, value in terms.items() if value is not None]
    )


def words(objective: Objective) -> str:
    """What is to be achieved, and on which statistic: ``as fast as possible on p99 with at most …``."""
    on = f"on {objective.on.value}"
    if objective.front:
        return f"the whole front of latency {on} and loss, points of it measured"
    if objective.utility_alpha is not None:
        return f"the best utility, α = {objective.utility_alpha:g}, of latency {on} and top-1{UNLABELLED}"
    if objective.deadline_ns is not None:
        drop = objective.max_accuracy_drop
        lost = "" if drop is None else f" with at most {drop:g} points of top-1 lost{UNLABELLED}"
        return f"the most images a second{lost}, each batch within {objective.deadline_ns / 1e6:g} ms {on}"
    share, ns = objective.latency_share, objective.latency_ns
    budget = None
    if share is not None or ns is not None:
        limit = f"{share:g}x of dense" if share is not None else f"{(ns or 0) / 1e6:g} ms"
        budget = f"{limit} {on}, losing least"
    if objective.max_accuracy_drop is None:
        return str(budget)
    limit = f"at most {objective.max_accuracy_drop:g} points of top-1 lost"
    fastest = f"as fast as possible {on} with {limit}"
    return f"{fastest}{UNLABELLED}" if budget is None else f"{fastest}; without labelled images {budget}"


def _statistic(name: str) -> Statistic:
    known = [statistic.value for statistic in Statistic]
    if name not in known:
        raise InputError(f"unknown statistic {name!r}; known: {', '.join(known)}", mend="--on p50")
    return Statistic(name)


def _term(name: str, value: str) -> tuple[str, float | int]:
    if name == "max-accuracy-drop":
        return "max_accuracy_drop", _number(value.removesuffix("%"), value)
    if name in ("utility", "utility-alpha"):
        return "utility_alpha", _number(value, value)
    if name == "deadline":
        return "deadline_ns", _time_ns(value)
    if name != "latency-budget":
        raise InputError(f"unknown objective {name!r}; forms: {FORMS}")
    if value.endswith("x"):
        return "latency_share", _number(value[:-1], value)
    if not value.endswith("s"):
        raise InputError(f"a latency budget needs a unit (ms, us, s) or x for a share of dense, not {value!r}")
    return "latency_ns", _time_ns(value)


def _time_ns(value: str) -> int:
    for unit in ("ns", "us", "ms", "s"):
        if value.endswith(unit):
            return round(_number(value.removesuffix(unit), value) * UNITS_NS[unit])
    raise InputError(f"a time needs a unit (ms, us, s), not {value!r}")


def _number(text: str, shown: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise InputError(f"not a number: {shown!r}") from None
    if not -1e18 < number < 1e18:
        raise InputError(f"not a finite number: {shown!r}")
    return number
