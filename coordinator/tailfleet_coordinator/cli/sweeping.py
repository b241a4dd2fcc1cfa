"""What is to be measured, as options that ``sweep run`` and ``campaign run`` share, and the request that they mean."""

from dataclasses import dataclass
from typing import Annotated

import typer

from tailfleet_coordinator.client import Fleet
from tailfleet_schema.campaign import DEFAULT_METHODS, METHODS, CampaignRequest, SweepSettings
from tailfleet_schema.errors import InputError
from tailfleet_schema.workload import ATTENTIONS, BACKENDS, DTYPES

REAL_BACKENDS = [backend for backend in BACKENDS if backend != "virtual"]

UNTRAINED = [method for method in METHODS if method != "cropr"]
"""Methods for any model: most have no trained queries, and nothing but their weights would tell."""

OPTIONS = {"methods": "--method", "sweep.counts": "--counts"}
"""Options that are not called like the field of the request that they fill."""


@dataclass(frozen=True)
class Sweeping:
    """Boards × models, and how they are measured."""

    models: Annotated[str, typer.Option(help="Names separated by commas, or all.")] = "all"
    boards: Annotated[str, typer.Option(help="Names separated by commas, or all.")] = "all"
    method: Annotated[
        str,
        typer.Option(
            metavar="LIST|all|auto",
            help=f"Reduction methods whose cost is measured (and planned): of {', '.join(METHODS)}. all: all but cropr,"
            " which needs queries that were trained. auto: the default ones, or those named beside it (auto,topk,evit),"
            " compete, and one plan takes the best.",
        ),
    ] = ",".join(DEFAULT_METHODS)
    counts: Annotated[
        str,
        typer.Option(
            metavar="adaptive|all|LIST",
            help="Token counts of the curve: adaptive (a coarse grid, refined where neighbours differ beyond noise), "
            "all, or a list such as 50,99,197.",
        ),
    ] = SweepSettings.counts
    precision: Annotated[
        str,
        typer.Option(
            metavar="SHARE",
            help="Measure each until half of its quiet time's interval is at most this share of it: 0.02 or 2%.",
        ),
    ] = f"{SweepSettings.precision:.0%}"
    budget_seconds: Annotated[
        float, typer.Option(metavar="SECONDS", help="Of each sweep: nothing new is begun after so long.")
    ] = SweepSettings.budget_seconds
    backend: Annotated[
        str, typer.Option(metavar="NAME", help=f"{', '.join(REAL_BACKENDS)}; virtual boards have their own.")
    ] = CampaignRequest.backend
    dtype: Annotated[str, typer.Option(metavar="|".join(DTYPES), help="Of weights and images.")] = CampaignRequest.dtype
    attention: Annotated[
        str,
        typer.Option(metavar="|".join(ATTENTIONS), help="auto: whichever this board is faster with; it is recorded."),
    ] = CampaignRequest.attention
    batch: Annotated[int, typer.Option(metavar="N", help="Images a pass.")] = CampaignRequest.batch
    rounds: Annotated[
        int, typer.Option(metavar="N", help="Undisturbed rounds that everything is in at least, each in a fresh order.")
    ] = SweepSettings.rounds
    calls: Annotated[int, typer.Option(metavar="N", help="Timed calls of a count in a round.")] = SweepSettings.calls
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again even where a fitting curve is stored.")] = False

    def request(self, here: Fleet) -> CampaignRequest:
        """A campaign that measures and plans nothing. Raises ``InputError``, which names the option."""
        enrolled = here.boards()
        known = enrolled[enrolled["revoked_at"].isna()] if self.boards.strip() == "all" else enrolled
        boards = names(self.boards, known["name"].tolist(), "board")
        models = names(self.models, here.models()["name"].tolist(), "model")
        precision = share("--precision", self.precision)
        try:
            sweep = SweepSettings(
                self.counts.strip(), self.rounds, self.calls, self.fresh, precision, self.budget_seconds
            )
            return CampaignRequest(
                models=models,
                boards=boards,
                methods=list(UNTRAINED) if self.method.strip() == "all" else split(self.method),
                objective=None,
                sweep=sweep,
                batch=self.batch,
                dtype=self.dtype,
                backend=self.backend,
                attention=self.attention,
            )
        except InputError as error:
            field = error.path.partition("[")[0]
            option = OPTIONS.get(field) or "--" + field.replace("_", "-")
            raise InputError(error.problem, error.mend, option) from error


def share(option: str, text: str) -> float:
    """A share as people write it: ``0.01`` or ``1%``. Raises ``InputError``."""
    written = text.strip()
    try:
        value = float(written.removesuffix("%")) / (100.0 if written.endswith("%") else 1.0)
    except ValueError:
        raise InputError(f"cannot read {text!r}", mend=f"{option} 0.01, or {option} 1%", path=option) from None
    if not 0.0 < value <= 1.0:
        raise InputError(
            f"must lie above 0 and be at most 1 (100 %), not {text!r}", f"{option} 0.01, or {option} 1%", option
        )
    return value


def split(text: str) -> list[str]:
    """Names separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def names(text: str, known: list[str], noun: str) -> list[str]:
    """The names that an option means; ``all`` is all known ones. Raises ``InputError`` for an unknown one."""
    chosen = known if text.strip() == "all" else split(text)
    if not chosen:
        raise InputError(f"no {noun} is known yet", mend="tailfleet board enroll NAME" if noun == "board" else None)
    for name in chosen:
        if name not in known:
            raise InputError(
                f"unknown {noun} {name!r}; known: {', '.join(known) or 'none'}", mend=f"tailfleet {noun} list"
            )
    return chosen
