"""``tailfleet demo``: the main job on this machine, with nothing simulated that can be real.

Starts a coordinator, enrols this machine as a board and three modelled boards, each through the very line that
``board enroll`` prints, runs one campaign over them, and writes its report. All processes are this command's
children and end with it. Left to others: everything that it calls.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from tailfleet_coordinator.cli import curve_words, show
from tailfleet_coordinator.cli.campaign import curve_tables, raise_unless_done
from tailfleet_coordinator.cli.follow import follow
from tailfleet_coordinator.cli.show import console, say
from tailfleet_coordinator.client import Fleet
from tailfleet_schema.campaign import CampaignRequest, Objective, SweepSettings
from tailfleet_schema.errors import InternalError, LabError

MODELS = ["deit_small_patch16_224", "digits_vit"]
VIRTUAL_PROFILES = ("jetson-nano", "jetson-tx2", "agx-orin")
OBJECTIVE = Objective(max_accuracy_drop=1.0, latency_share=0.8)
BUDGET_SECONDS = 35.0
"""Of each sweep and verification: on a machine that is disturbed, a curve that says so is worth more to a newcomer than
minutes of waiting."""

VERIFIED = 1
"""Of each plan its chosen point alone: four boards that share one machine wait for each other, and three points of each
plan took half of the demo."""

START_SECONDS = 120.0
STOP_SECONDS = 20.0
LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class DemoBoard:
    """A board of the demo; ``profile`` None means this machine itself."""

    name: str
    profile: str | None = None


BOARDS = [DemoBoard("this-machine"), *(DemoBoard(f"virtual-{profile}", profile) for profile in VIRTUAL_PROFILES)]


def demo(
    folder: Annotated[Path, typer.Option("--dir", help="Where the demo keeps its state and its report.")] = Path(
        "build/demo"
    ),
) -> None:
    """Run the main job on this machine: enrol, sweep, plan, ship, measure, report."""
    # Ended from outside, it ends what it started, as it does on Ctrl-C.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        fleet = stack.enter_context(_coordinator(folder))
        seconds["start coordinator"] = time.monotonic() - began
        say(f"coordinator at {fleet.url} (Ray, SQLite in {_shown(folder / 'state')})")
        agents = stack.enter_context(_agents(fleet, folder))
        seconds["enroll boards"] = time.monotonic() - began - sum(seconds.values())
        stored = fleet.curve_list()
        if not stored.empty:
            say(f"{len(stored)} curves are stored from an earlier run and are reused where they still fit")
        campaign = fleet.run_campaign(
            CampaignRequest(
                models=MODELS,
                boards=[board.name for board in BOARDS],
                planners=["optimal", "pomt-rule"],
                objective=OBJECTIVE,
                sweep=SweepSettings(budget_seconds=BUDGET_SECONDS),
                verify=VERIFIED,
            )
        )
        say(
            f"campaign {campaign}: {len(BOARDS)} boards × {len(MODELS)} models. Objective: digits_vit as fast as"
            f" possible on {OBJECTIVE.on.value} with at most 1 point of top-1 lost (calibration images);\n"
            "deit_small_patch16_224 has random weights here, so it is planned by latency alone: 0.8 of dense on"
            f" {OBJECTIVE.on.value}."
        )
        status, phases = follow(fleet, campaign, lambda: _check(agents, folder))
        seconds.update(phases)
        reporting = time.monotonic()
        _report(fleet, campaign, folder / "report")
        seconds["report"] = time.monotonic() - reporting
        seconds["total"] = time.monotonic() - began
        # The figure a benchmark reads: seconds in which at least one board × model was in the phase.
        (folder / "report" / "phases.json").write_text(json.dumps(seconds, indent=2) + "\n")
        say("seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()))
        raise_unless_done(status)


def _report(fleet: Fleet, campaign: str, out: Path) -> None:
    from tailfleet_coordinator.report import table
    from tailfleet_coordinator.report.write import write_report

    report = fleet.report(campaign)
    console.print()
    console.print(table.render(report.rows))
    stored = fleet.curve_list()
    used = stored[stored["curve_id"].isin([row.curve_id for row in report.rows])]
    show.table("the curves that plans rest on", curve_words.listed(used), "no curve was measured")
    files = write_report(report, curve_tables(fleet), out)
    say(f"table:  {_shown(files.table_json)}\n        {_shown(files.table_csv)}")
    say(f"curves: {_shown(files.page)} and {len(files.pictures)} pictures beside it")


@contextlib.contextmanager
def _coordinator(folder: Path) -> Iterator[Fleet]:
    """A coordinator of its own in a process of its own; ends with the block."""
    state = folder / "state"
    ready = state / "coordinator.json"
    ready.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tailfleet_coordinator.cli.main", "up", "--port", "0", "--state", str(state)]
    log = folder / "coordinator.log"
    with log.open("ab") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, start_new_session=True)
    try:
        deadline = time.monotonic() + START_SECONDS
        with console.status("starting the coordinator"):
            while not ready.exists():
                if process.poll() is not None:
                    raise InternalError(
                        f"the coordinator ended with status {process.returncode}: {_last_line(log)}", f"read {log}"
                    )
                if time.monotonic() > deadline:
                    raise LabError(f"the coordinator was not ready within {START_SECONDS:.0f} s", f"read {log}")
                time.sleep(LOOK_SECONDS)
        known = json.loads(ready.read_text())
        yield Fleet(known["url"], known["token"])
    finally:
        _end(process)


@contextlib.contextmanager
def _agents(fleet: Fleet, folder: Path) -> Iterator[dict[str, "subprocess.Popen[bytes]"]]:
    """One agent process a board. A board that is not enrolled yet runs the line that ``board enroll`` prints."""
    agents: dict[str, subprocess.Popen[bytes]] = {}
    boards = fleet.boards()
    known = set() if boards.empty else set(boards["name"])
    try:
        for board in BOARDS:
            home = folder / "boards" / board.name
            home.mkdir(parents=True, exist_ok=True)
            if board.name in known and (home / "agent.json").exists():
                # The coordinator has taken another port since.
                _readdress(home, fleet.url)
                line = "python3 tailfleet-agent.pyz run"
            else:
                line = fleet.enroll_board(board.name, virtual_profile=board.profile).line
            agents[board.name] = _agent(line, home)
        _await_enrolled(fleet, agents, folder)
        yield agents
    finally:
        for process in agents.values():
            _signal(process, signal.SIGTERM)
        for process in agents.values():
            _end(process)


def _agent(line: str, home: Path) -> "subprocess.Popen[bytes]":
    """Run ``line`` as a person would paste it, on the interpreter that runs this command: it has torch."""
    bin_folder = os.path.dirname(sys.executable)
    environment = {
        **os.environ,
        "TAILFLEET_AGENT_HOME": str(home),
        "PATH": f"{bin_folder}:{os.environ.get('PATH', '')}",
    }
    with (home / "agent.log").open("ab") as sink:
        return subprocess.Popen(
            ["sh", "-c", line],
            cwd=home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )


def _await_enrolled(fleet: Fleet, agents: dict[str, "subprocess.Popen[bytes]"], folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with console.status("enrolling boards"):
        while True:
            boards = fleet.boards()
            online = set() if boards.empty else set(boards[boards["online"]]["name"])
            if set(agents) <= online:
                break
            _check(agents, folder)
            if time.monotonic() > deadline:
                missing = ", ".join(sorted(set(agents) - online))
                raise LabError(
                    f"not enrolled within {START_SECONDS:.0f} s: {missing}", f"read {folder}/boards/NAME/agent.log"
                )
            time.sleep(LOOK_SECONDS)
    for board in BOARDS:
        what = f"VIRTUAL board, latencies modelled on a {board.profile}" if board.profile else "this machine, measured"
        say(f"board {board.name}: {what}")


def _readdress(home: Path, url: str) -> None:
    path = home / "agent.json"
    known = json.loads(path.read_text())
    if known["url"] != url:
        draft = path.with_suffix(".new")
        draft.touch(mode=0o600)
        draft.write_text(json.dumps({**known, "url": url}))
        draft.replace(path)


def _check(agents: dict[str, "subprocess.Popen[bytes]"], folder: Path) -> None:
    """Raise ``LabError`` when an agent has ended."""
    for name, process in agents.items():
        if process.poll() is not None:
            log = folder / "boards" / name / "agent.log"
            raise LabError(
                f"the agent of {name} ended with status {process.returncode}: {_last_line(log)}", f"read {log}"
            )


def _last_line(log: Path) -> str:
    lines = (
        [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    )
    return lines[-1] if lines else "it printed nothing"


def _signal(process: "subprocess.Popen[bytes]", number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ask the process to end, which ends what it started in good order; then end what is left of its group."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        _signal(process, signal.SIGKILL)
        process.wait()


def _shown(path: Path) -> str:
    """``path`` relative to where the command runs, where it lies below."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
