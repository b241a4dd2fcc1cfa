"""One marker and one colour for each method, and how a measured schedule is drawn, in every picture.

Colours are those of Okabe and Ito, told apart by colour-blind readers.
"""

from matplotlib.axes import Axes

from tailfleet_coordinator.report.table import method
from tailfleet_schema.campaign import ReportRow

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#666666",
)

MARKS = {
    "topk": ("s", GREEN),
    "pomt": ("^", PURPLE),
    "tome": ("D", ORANGE),
    "evit": ("P", SKY),
    "zero-tprune": ("X", VERMILION),
    "cropr": ("p", BLUE),
    "random": ("o", GREY),
}
OTHER = ("v", SKY)


def of_method(name: str) -> tuple[str, str]:
    """Marker and colour of a method."""
    return MARKS.get(name, OTHER)


def draw_measured(axes: Axes, row: ReportRow, other: float, ns: float, across: bool, label: str, ring: str) -> None:
    """What the board measured of a row's schedule, with its interval: ``ns`` up and ``other`` to the right, or
    ``across`` the other way round. Filled where the plan is ours; ringed where it is recommended."""
    marker, colour = of_method(row.reduces_by or row.method)
    low = ns if row.measured_low_ns is None else row.measured_low_ns
    high = ns if row.measured_high_ns is None else row.measured_high_ns
    error = [[(ns - low) / 1e6], [(high - ns) / 1e6]]
    at = (ns / 1e6, other) if across else (other, ns / 1e6)
    filled = row.planner == "optimal"
    axes.errorbar(
        [at[0]],
        [at[1]],
        xerr=error if across else None,
        yerr=None if across else error,
        fmt=marker,
        markersize=8,
        color=colour,
        markerfacecolor=colour if filled else "white",
        markeredgecolor="black" if filled else colour,
        capsize=3,
        zorder=5,
        label=f"{method(row)}{label}",
    )
    if row.recommended:
        axes.plot(
            [at[0]],
            [at[1]],
            "o",
            markersize=19,
            markerfacecolor="none",
            color=VERMILION,
            markeredgewidth=2.2,
            zorder=6,
            label=ring,
        )
