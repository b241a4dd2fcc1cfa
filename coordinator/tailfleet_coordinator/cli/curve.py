"""``tailfleet curve``: list, show and export stored curves."""

import json
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import pandas
import typer

from tailfleet_coordinator.cli import curve_words as words
from tailfleet_coordinator.cli.grouped import grouped
from tailfleet_coordinator.cli.show import console, fleet, say, table
from tailfleet_coordinator.client import Fleet
from tailfleet_coordinator.replies import CurveDetails
from tailfleet_schema import codec
from tailfleet_schema.curve import JUDGED_PARTS, Part
from tailfleet_schema.errors import InputError

app = typer.Typer(help="List, show and export stored curves.", no_args_is_help=True)

Model = Annotated[str | None, typer.Option(help="Only this model.")]
Board = Annotated[str | None, typer.Option(help="Only this board.")]

PARTS = [part.value for part in Part if part not in (*JUDGED_PARTS, Part.SCHEDULE)]


class Form(str, Enum):
    """Forms a table can be exported in."""

    CSV = "csv"
    PARQUET = "parquet"
    JSON = "json"


class What(str, Enum):
    """Tables that can be exported."""

    POINTS = "points"
    CLIFFS = "cliffs"
    TREADS = "treads"
    ROUNDS = "rounds"
    SAMPLES = "samples"


@dataclass(frozen=True)
class Which:
    """One of several curves of a model on a board."""

    backend: Annotated[str | None, typer.Option(help="The newest curve on this backend.")] = None
    dtype: Annotated[str | None, typer.Option(help="The newest curve in fp32, fp16 or bf16.")] = None
    batch: Annotated[int | None, typer.Option(metavar="N", help="The newest curve of N images a pass.")] = None
    curve: Annotated[int | None, typer.Option(metavar="ID", help="This one, as curve list numbers it.")] = None

    def among(self, listed: pandas.DataFrame, model: str, board: str) -> int:
        """The number of the newest curve of ``listed`` that is meant. Raises ``InputError`` where there is none."""
        if listed.empty:
            raise InputError(
                f"no curve of {model!r} on {board!r} is stored",
                mend=f"tailfleet sweep run --models {model} --boards {board}",
            )
        wanted = {"backend": self.backend, "dtype": self.dtype, "batch": self.batch, "curve_id": self.curve}
        asked = {name: value for name, value in wanted.items() if value is not None}
        found = listed
        for name, value in asked.items():
            found = found[found[name] == value]
        if found.empty:
            what = " ".join(f"{name.removesuffix('_id')} {value}" for name, value in asked.items())
            raise InputError(
                f"no curve of {model!r} on {board!r} is stored with {what}; stored: {_variants(listed)}",
                mend=f"tailfleet curve list --model {model} --board {board}",
            )
        return int(found["curve_id"].iloc[-1])


@app.command("list")
def list_curves(model: Model = None, board: Board = None) -> None:
    """One line a curve: whether it can be trusted or why not, what was measured, what was found."""
    frame = fleet().curve_list(model=model, board=board)
    table("curves", words.listed(frame), "no curve is stored yet; tailfleet sweep run measures one")


@app.command()
@grouped
def show(
    model: Annotated[str, typer.Argument(help="A model's name.")],
    board: Annotated[str, typer.Argument(help="A board's name.")],
    which: Which,
    part: Annotated[str, typer.Option(metavar="PART|all", help=f"Of the points: {', '.join(PARTS)}.")] = "model",
    every: Annotated[bool, typer.Option("--all", help="Every count, not some of them.")] = False,
    cliffs: Annotated[bool, typer.Option("--cliffs", help="The steps alone.")] = False,
    rounds: Annotated[bool, typer.Option("--rounds", help="How each round was judged, and why.")] = False,
    truth: Annotated[bool, typer.Option("--truth", help="Of a virtual board: beside its true curve.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All there is of the curve, as JSON.")] = False,
) -> None:
    """The newest curve of one model on one board: its verdict, its treads and cliffs, its points."""
    here = fleet()
    if part not in (*PARTS, "all"):
        raise InputError(f"unknown part {part!r}; known: {', '.join(PARTS)}, all", mend="--part all")
    listed = here.curve_list(model=model, board=board)
    chosen = here.curve(which.among(listed, model, board))
    if as_json:
        sys.stdout.write(json.dumps(_everything(here, chosen, truth), ensure_ascii=False) + "\n")
        return
    for line in words.header(chosen):
        say(line)
    if listed[["backend", "dtype", "batch"]].drop_duplicates().shape[0] > 1:
        say(f"  also        {_variants(listed)}; --backend, --dtype and --batch choose")
    if rounds:
        none = "no round of it was judged: an earlier release measured it"
        table("rounds", words.round_table(_of(here.rounds(model, board), chosen)), none)
    if cliffs:
        table("steps", words.cliff_table(_of(here.cliffs(model, board), chosen), of_one=True), "no step was found")
    points = _of(here.curves(model, board), chosen)
    if truth:
        _show_truth(here, chosen, points, every)
    elif not (rounds or cliffs):
        _show_treads(here, chosen, part)
        _show_points(points, part, every)


@app.command("cliffs")
def list_cliffs(model: Model = None, board: Board = None) -> None:
    """Every step of every stored curve, with its height and confidence."""
    frame = fleet().cliffs(model=model, board=board)
    table("steps", words.cliff_table(frame, of_one=False), "no step of any stored curve was found")


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="File to write.")],
    what: Annotated[
        What, typer.Option(help="points, cliffs, treads, rounds (as judged), or samples (every timed call).")
    ] = What.POINTS,
    form: Annotated[Form | None, typer.Option("--format", help="Default: by the file's ending.")] = None,
    model: Model = None,
    board: Board = None,
) -> None:
    """Write what is stored of curves as a table; times in nanoseconds."""
    chosen = form.value if form else out.suffix.lstrip(".").lower()
    if chosen not in {item.value for item in Form}:
        raise InputError(f"cannot tell the form of {out.name!r}", mend="--format csv, parquet or json")
    frame = _exported(fleet(), what, model, board)
    _write(frame, out, chosen)
    console.print(f"{len(frame)} rows written to {out}")


def _show_treads(here: Fleet, chosen: CurveDetails, part: str) -> None:
    if part in ("model", "all"):
        treads = _of(here.treads(chosen.model, chosen.board), chosen)
        steps = _of(here.cliffs(chosen.model, chosen.board), chosen)
        table("treads", words.tread_table(treads, steps), "its treads and cliffs were not looked for")


def _show_points(points: pandas.DataFrame, part: str, every: bool) -> None:
    place = ["tokens"] if part == "model" else ["part", "method", "tokens", "kept"]
    frame = (points if part == "all" else points[points["part"] == part]).sort_values(place)
    title = f"{len(frame)} points"
    if part == "model" and not every:
        measured = frame[frame["source"] == "measured"]
        frame = words.some(measured)
        title = f"{len(frame)} of {len(measured)} measured counts; --all lists every count"
    table(title, words.point_table(frame, place), f"the curve has no part {part!r}")


def _show_truth(here: Fleet, chosen: CurveDetails, points: pandas.DataFrame, every: bool) -> None:
    curve = points[points["part"] == Part.MODEL.value].sort_values("tokens")
    both = words.truth_table(curve, here.true_curve(chosen.id))
    if both.empty:
        raise InputError(f"curve {chosen.id} has no count with a time")
    say(f"  truth       {words.truth_words(both)}")
    shown = both if every else words.some(both)
    more = "" if every else "; --all lists every count"
    table(f"{len(shown)} of {len(both)} counts beside the true curve{more}", words.rounded(shown), "")


def _everything(here: Fleet, chosen: CurveDetails, truth: bool) -> dict[str, Any]:
    tables = {"points": here.curves, "treads": here.treads, "cliffs": here.cliffs, "rounds": here.rounds}
    told: dict[str, Any] = {"curve": codec.encode(chosen)}
    for name, ask in tables.items():
        told[name] = _records(_of(ask(chosen.model, chosen.board), chosen))
    if truth:
        told["truth"] = _records(here.true_curve(chosen.id))
    return told


def _exported(here: Fleet, what: What, model: str | None, board: str | None) -> pandas.DataFrame:
    if what is not What.SAMPLES:
        tables = {
            What.POINTS: here.curves,
            What.CLIFFS: here.cliffs,
            What.TREADS: here.treads,
            What.ROUNDS: here.rounds,
        }
        return tables[what](model, board)
    frames = [here.samples(curve_id) for curve_id in here.curve_list(model, board)["curve_id"]]
    if not frames:
        raise InputError("no such curve is stored", mend="tailfleet curve list")
    frame = pandas.concat(frames, ignore_index=True)
    frame["telemetry"] = [None if state is None else json.dumps(state) for state in frame["telemetry"]]
    return frame


def _of(frame: pandas.DataFrame, chosen: CurveDetails) -> pandas.DataFrame:
    """The rows of one curve."""
    mine: pandas.DataFrame = frame[frame["curve_id"] == chosen.id]
    return mine


def _records(frame: pandas.DataFrame) -> Any:
    return json.loads(frame.to_json(orient="records", date_format="iso"))


def _variants(listed: pandas.DataFrame) -> str:
    """What curves there are, told apart by how they were run."""
    kinds = listed[["backend", "dtype", "batch"]].drop_duplicates()
    return "; ".join(f"{backend} {dtype} batch {batch}" for backend, dtype, batch in kinds.itertuples(index=False))


def _write(frame: pandas.DataFrame, out: Path, form: str) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if form == "csv":
            frame.to_csv(out, index=False)
        elif form == "parquet":
            frame.to_parquet(out, index=False)
        else:
            frame.to_json(out, orient="records", date_format="iso")
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}") from error
