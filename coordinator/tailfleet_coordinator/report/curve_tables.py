"""The tables that pictures of curves are drawn from, and the one curve among them that is meant.

Asking ``Fleet`` for them is left to the callers.
"""

from dataclasses import dataclass

import pandas

from tailfleet_schema.curve import Part


@dataclass(frozen=True)
class CurveTables:
    """Points, treads, steps and judged rounds of one curve or of many; the columns are those of ``Fleet``'s methods."""

    points: pandas.DataFrame
    treads: pandas.DataFrame
    cliffs: pandas.DataFrame
    rounds: pandas.DataFrame

    def of(self, curve_id: object) -> "CurveTables":
        """One curve's rows."""
        tables = (self.points, self.treads, self.cliffs, self.rounds)
        return CurveTables(*(table[table["curve_id"] == curve_id] for table in tables))

    def drawable(self, curve_id: object) -> bool:
        """Whether the curve is here, with a time of the whole model."""
        points = self.points
        whole = (points["part"] == Part.MODEL.value) & (points["status"] == "ok")
        return bool(((points["curve_id"] == curve_id) & whole).any())

    def newest(self, board: str, model: str) -> object | None:
        """The id of the newest drawable curve of a model on a board; None where there is none."""
        here = self.points[(self.points["board"] == board) & (self.points["model"] == model)]
        ordered = here.sort_values("measured_at", kind="stable")["curve_id"].drop_duplicates(keep="last")
        return next((curve_id for curve_id in reversed(ordered.tolist()) if self.drawable(curve_id)), None)
