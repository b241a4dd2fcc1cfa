"""A sweep as planning reads it: judged, summarised and filled in once, when its curve is filed, and stored with it.

Thousands of plans are then made without going through samples again; a plan is the same either way, since what is
stored is what would be made of the samples, to the last digit. Plans on another statistic than quiet need single calls
besides. Left to others: what a schedule costs (``latency``), and where readings are kept (the store).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from tailfleet_coordinator.plan.halves import with_all_tokens
from tailfleet_coordinator.plan.inference import CurvePoint, every_count
from tailfleet_coordinator.plan.statistics import PointSummary, measured, summarise
from tailfleet_coordinator.plan.treads import find_treads
from tailfleet_schema import quiet
from tailfleet_schema.curve import Part, Unit, UnitResult
from tailfleet_schema.workload import Geometry

VERSION = 1
"""Raised with every change of what is made of the same samples: what was stored before is then made anew."""


@dataclass(frozen=True)
class Reading:
    """What there is to plan on."""

    points: tuple[PointSummary, ...]
    """Quiet times alone where this was stored."""
    whole: tuple[CurvePoint, ...]
    """The curve at every count, ascending; empty where the sweep has none of all tokens."""
    candidates: tuple[int, ...]
    unstable: str
    """Why the sweep is not stable; empty where it is."""

    @classmethod
    def of(cls, geometry: Geometry, results: Sequence[UnitResult], judged: quiet.Judged | None = None) -> "Reading":
        """Of all results of one sweep. ``judged`` is ``quiet.judge(results)``, for who has it already."""
        judged = quiet.judge(results) if judged is None else judged
        points = summarise(results, judged)
        known = with_all_tokens(geometry, points)
        curve = measured(known, Part.MODEL)
        found = find_treads(known)
        whole: list[CurvePoint] = []
        if curve and curve[-1].unit.tokens == geometry.tokens:
            least = min(geometry.prefix + 1, curve[0].unit.tokens)
            whole = every_count(known, least, geometry.tokens, found.treads)
        reason = "" if judged.stable else judged.reason or "no reason was found"
        return cls(tuple(points), tuple(whole), tuple(found.candidates), reason)

    def dumps(self) -> str:
        """As text; numbers to the last digit."""
        told = {
            "points": [
                [
                    p.unit.part.value,
                    p.unit.label,
                    p.unit.tokens,
                    p.unit.kept,
                    p.quiet_ns,
                    p.quiet_low_ns,
                    p.quiet_high_ns,
                ]
                for p in self.points
            ],
            "whole": [[p.tokens, p.ns, p.low_ns, p.high_ns, int(p.measured)] for p in self.whole],
            "candidates": self.candidates,
            "unstable": self.unstable,
        }
        return json.dumps(told, separators=(",", ":"))

    @classmethod
    def loads(cls, text: str) -> "Reading":
        """From the text of :meth:`dumps`, by the same version."""
        told = json.loads(text)
        points = [
            PointSummary(
                _unit(part, label, tokens, kept), ns, low, high, None, None, None, 0, 0, "oom" if ns is None else "ok"
            )
            for part, label, tokens, kept, ns, low, high in told["points"]
        ]
        whole = [CurvePoint(tokens, ns, low, high, bool(seen)) for tokens, ns, low, high, seen in told["whole"]]
        return cls(tuple(points), tuple(whole), tuple(told["candidates"]), told["unstable"])


@lru_cache(maxsize=4096)
def _unit(part: str, label: str, tokens: int, kept: int) -> Unit:
    """Checked once: all boards time the same units of a model."""
    return Unit(Part(part), tokens, kept, label)
