"""``tailfleet curve``: list, show and export stored curves."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import pandas
import typer

from tailfleet_coordinator.cli.show import console, fleet, table
from tailfleet_schema.errors import InputError

app = typer.Typer(help="List, show and export stored curves.", no_args_is_help=True)

Model = Annotated[str | None, typer.Option(help="Only this model.")]
Board = Annotated[str | None, typer.Option(help="Only this board.")]


FIGURES = ("quiet_ns", "quiet_low_ns", "quiet_high_ns", "p50_ns", "p90_ns", "calls")


class Format(str, Enum):
    """Forms a curve can be exported in."""

    CSV = "csv"
    PARQUET = "parquet"
    JSON = "json"


@app.command("list")
def list_curves(model: Model = None, board: Board = None) -> None:
    """One line a curve."""
    frame = fleet().curve_list(model=model, board=board)
    shown = ["curve_id", "board", "board_kind", "model", "backend", "dtype", "batch", "stable", "measured_at"]
    table("curves", frame[shown], "no curve is stored yet; tailfleet sweep run measures one")


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="A model's name.")],
    board: Annotated[str, typer.Argument(help="A board's name.")],
    part: Annotated[str, typer.Option(help="model, attention, mlp, fixed, reduce, or all.")] = "model",
) -> None:
    """The latest curve of one model on one board, count by count."""
    frame = fleet().curves(model=model, board=board)
    if frame.empty:
        raise InputError(
            f"no curve of {model!r} on {board!r} is stored",
            mend=f"tailfleet sweep run --models {model} --boards {board}",
        )
    frame = frame[frame["curve_id"] == frame["curve_id"].iloc[-1]]
    first = frame.iloc[0]
    kind = "VIRTUAL board: modelled latency" if first["board_kind"] == "virtual" else "measured"
    stable = "stable" if first["stable"] else f"unstable: {first['unstable_reason']}"
    console.print(f"{model} on {board} ({kind}), {first['backend']} {first['dtype']}, batch {first['batch']}, {stable}")
    place = ["tokens"] if part == "model" else ["part", "method", "tokens", "kept"]
    if part != "all":
        frame = frame[frame["part"] == part]
    frame = frame.sort_values(place)[[*place, *FIGURES]]
    table("", frame, f"the curve has no part {part!r}")


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="File to write.")],
    form: Annotated[Format | None, typer.Option("--format", help="Default: by the file's ending.")] = None,
    model: Model = None,
    board: Board = None,
) -> None:
    """Write stored curves, one row for each measured unit; times in nanoseconds."""
    chosen = form.value if form else out.suffix.lstrip(".").lower()
    if chosen not in {item.value for item in Format}:
        raise InputError(f"cannot tell the form of {out.name!r}", mend="--format csv, parquet or json")
    frame = fleet().curves(model=model, board=board)
    _write(frame, out, chosen)
    console.print(f"{len(frame)} rows written to {out}")


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
