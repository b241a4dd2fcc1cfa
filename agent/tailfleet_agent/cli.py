"""The agent's command line: ``enroll``, ``run``, ``dataset``, ``facts``, ``sensors``, ``worker``; also what the zipapp
starts.

One sentence, the cause and the mend on every failure; exit 1 for failures, 2 for usage.
"""

import argparse
import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Dict, List, Optional, Tuple

from tailfleet_agent import config as config_room
from tailfleet_agent import probes, readout
from tailfleet_agent.client import Client
from tailfleet_agent.config import Config
from tailfleet_agent.loop import Agent
from tailfleet_agent.runner import worker_command
from tailfleet_schema import __version__, codec
from tailfleet_schema.board import BoardFacts, BoardKind, Telemetry, fingerprint
from tailfleet_schema.errors import ConfigurationError, TailfleetError
from tailfleet_schema.messages import EnrolRequest
from tailfleet_schema.virtual_board import OPTIONS as VIRTUAL_OPTIONS

FACTS_SECONDS = 300.0
"""Importing torch takes most of a minute on a Nano's SD card."""


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the command line; the exit status."""
    if arguments is None:
        arguments = sys.argv[1:]
    if arguments[:1] == ["worker"]:
        from tailfleet_agent.worker import protocol

        return protocol.main(arguments[1:])
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command == "dataset" and (options.folder is None) != options.forget:
        parser.error("dataset: give the folder that holds {}'s images, or --forget".format(options.name))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        if options.command == "enroll":
            return enroll(options)
        if options.command == "dataset":
            return dataset(options)
        if options.command == "facts":
            return facts(options)
        if options.command == "sensors":
            return sensors(options)
        return run(options)
    except TailfleetError as error:
        if options.debug:
            raise
        print("tailfleet-agent: {}".format(error.sentence), file=sys.stderr)
        if error.mend:
            print("  mend: {}".format(error.mend), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def enroll(options: Any) -> int:
    """Trade the enrolment token for a board token and remember it."""
    config = Config(
        options.url.rstrip("/"),
        "",
        "",
        options.virtual,
        options.worker_python,
        os.path.abspath(options.ca) if options.ca else None,
        datasets=dict(options.dataset),
    )
    facts = board_facts(config)
    reply = Client(config.url, options.token, config.ca).enroll(EnrolRequest(facts))
    config_room.save(options.home, dataclasses.replace(config, board=reply.board, board_token=reply.board_token))
    what = "virtual board ({})".format(options.virtual) if options.virtual else "board"
    print("enrolled as {} {} at {}".format(what, reply.board, config.url))
    if not options.virtual and facts.software.torch is None:
        print(
            "warning: {} cannot import torch: nothing can be measured until it can, or until another interpreter is"
            " named with --worker-python".format(config.worker_python),
            file=sys.stderr,
        )
    return 0


def run(options: Any) -> int:
    """Ask for work until SIGTERM or SIGINT."""
    stopping = threading.Event()
    with config_room.lock(options.home):
        config = _with_datasets(options.home, dict(options.dataset))
        agent = Agent(
            options.home,
            config,
            Client(config.url, config.board_token, config.ca),
            lambda: board_facts(config),
            lambda: _telemetry(config),
            stopping,
        )

        def stop(*_: Any) -> None:
            stopping.set()
            if agent.waiting:
                # A long poll would be sat out otherwise.
                sys.exit(0)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        logging.info("board %s asks %s for work", config.board, config.url)
        agent.run()
    return 0


def dataset(options: Any) -> int:
    """Remember, or forget, which folder of this board holds a dataset's image files."""
    config = _with_datasets(options.home, {options.name: options.folder})
    if options.name in config.datasets:
        print("the images of dataset {} are read from {}".format(options.name, config.datasets[options.name]))
    else:
        print("the images of dataset {} are fetched from the coordinator".format(options.name))
    print("an agent that runs already does so when it is started again")
    return 0


def facts(options: Any) -> int:
    """Say what this board is; the enrolment need not exist yet."""
    config = _own_config(options.home)
    if options.worker_python is not None:
        config = dataclasses.replace(config, worker_python=options.worker_python)
    told = board_facts(config)
    state = _telemetry(config)
    power_mode = state.power_mode if state else None
    if options.json:
        whole = {"facts": told, "power_mode": power_mode, "fingerprint": fingerprint(told, power_mode)}
        print(json.dumps(codec.encode(whole), indent=2, sort_keys=True))
    else:
        _say(readout.facts_lines(told, power_mode))
    return 0


def sensors(options: Any) -> int:
    """Say what this board's sensors tell at this moment, and how long they take to be read."""
    state = _telemetry(_own_config(options.home))
    if state is None:
        raise ConfigurationError(
            "a virtual board has no sensors, and this machine's say nothing of it",
            mend="name the home of another agent with --home",
        )
    # What a measurement will pay: its library is open by now, and no slow service is asked.
    began = time.perf_counter()
    probes.read_telemetry()
    reading_ms = (time.perf_counter() - began) * 1000.0
    if options.json:
        print(json.dumps({"telemetry": codec.encode(state), "reading_ms": reading_ms}, indent=2, sort_keys=True))
    else:
        _say(readout.telemetry_lines(state, reading_ms))
    return 0


def _say(lines: List[str]) -> None:
    # A console in the C locale, as Python 3.6 sees it, has no degree sign.
    encoding = sys.stdout.encoding or "ascii"
    print("\n".join(lines).encode(encoding, "replace").decode(encoding))


def _own_config(home: str) -> Config:
    """The stored enrolment, or that of a board that has none yet."""
    if not os.path.exists(config_room.path(home, "agent.json")):
        return Config("", "", "")
    return config_room.load(home)


def _with_datasets(home: str, changes: Dict[str, Optional[str]]) -> Config:
    """The stored enrolment with these folders, which are stored too; None forgets one."""
    config = config_room.load(home)
    folders: Dict[str, Optional[str]] = {**config.datasets, **changes}
    changed = dataclasses.replace(config, datasets={name: path for name, path in folders.items() if path is not None})
    if changed != config:
        config_room.save(home, changed)
    return changed


def _telemetry(config: Config) -> Optional[Telemetry]:
    """The board's state; None for a virtual board, of which this machine's state says nothing."""
    return probes.read_telemetry(between_jobs=True) if config.virtual_profile is None else None


def board_facts(config: Config) -> BoardFacts:
    """The board's facts. What only torch can tell is asked of a child, so that this process never imports it."""
    kind = BoardKind.PHYSICAL if config.virtual_profile is None else BoardKind.VIRTUAL
    command = [*worker_command(config.worker_python), "facts"]
    if config.virtual_profile is not None:
        command += ["--virtual", config.virtual_profile]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=FACTS_SECONDS)
    except OSError as error:
        raise TailfleetError(
            "cannot start {}: {}".format(config.worker_python, error.strerror),
            mend="name the interpreter that has torch and timm with --worker-python",
        )
    except subprocess.TimeoutExpired:
        raise TailfleetError("{} did not tell its versions within {:.0f} s".format(config.worker_python, FACTS_SECONDS))
    text = done.stdout.decode("utf-8", "replace").strip()
    if done.returncode != 0:
        words = (text or done.stderr.decode("utf-8", "replace").strip()).splitlines()
        raise TailfleetError(words[-1] if words else "the measured child cannot start")
    try:
        child = json.loads(text.splitlines()[-1])
    except (ValueError, IndexError):
        raise TailfleetError("the measured child told no facts: {!r}".format(text[-200:]))
    return probes.read_facts(kind, config.virtual_profile, child)


def _folder(text: str) -> str:
    """The absolute path of a folder that exists, for argparse."""
    path = os.path.abspath(os.path.expanduser(text))
    if not os.path.isdir(path):
        raise argparse.ArgumentTypeError("there is no folder {}".format(path))
    return path


def _named_folder(text: str) -> Tuple[str, str]:
    """``NAME=PATH``, for argparse."""
    name, equals, path = text.partition("=")
    if not name or not equals or not path:
        raise argparse.ArgumentTypeError("{!r} is not NAME=PATH".format(text))
    return name, _folder(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tailfleet-agent", description="The tailfleet agent of one board.")
    parser.add_argument("--version", action="version", version="tailfleet-agent " + __version__)
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.required = True
    enroll_parser = commands.add_parser("enroll", help="enroll this board with a coordinator")
    enroll_parser.add_argument("url", help="the coordinator, such as http://10.0.0.5:8765")
    enroll_parser.add_argument("--token", required=True, help="the enrolment token that the coordinator printed")
    enroll_parser.add_argument(
        "--virtual",
        metavar="BOARD[:OPTION=NUMBER,...]",
        help="speak for a modelled board, such as jetson-tx2, or jetson-tx2:noise=0.03,bursts=0.3 for a disturbed one"
        " (options: {})".format(", ".join(VIRTUAL_OPTIONS)),
    )
    enroll_parser.add_argument(
        "--worker-python",
        default=sys.executable,
        metavar="PATH",
        help="the interpreter that has torch and timm (default: this one)",
    )
    enroll_parser.add_argument("--ca", metavar="FILE", help="certificates to trust for https")
    run_parser = commands.add_parser("run", help="ask for work, for ever")
    for one in (enroll_parser, run_parser):
        one.add_argument(
            "--dataset",
            action="append",
            default=[],
            type=_named_folder,
            metavar="NAME=PATH",
            help="this board has the image files of the dataset NAME below PATH: they are not fetched (repeatable)",
        )
    dataset_parser = commands.add_parser("dataset", help="say where this board has the image files of a dataset")
    dataset_parser.add_argument("name", help="the dataset, as the coordinator calls it")
    dataset_parser.add_argument("folder", nargs="?", type=_folder, help="the folder that holds its files")
    dataset_parser.add_argument("--forget", action="store_true", help="fetch them from the coordinator again")
    facts_parser = commands.add_parser("facts", help="say what this board is, and its fingerprint")
    sensors_parser = commands.add_parser("sensors", help="say what this board's sensors tell now")
    for one in (facts_parser, sensors_parser):
        one.add_argument("--json", action="store_true", help="as JSON")
    facts_parser.add_argument(
        "--worker-python", metavar="PATH", help="ask this interpreter for its torch and timm, not the enrolled one"
    )
    for one in (enroll_parser, run_parser, dataset_parser, facts_parser, sensors_parser):
        one.add_argument(
            "--home",
            default=config_room.DEFAULT_HOME,
            metavar="DIR",
            help="where this agent keeps its enrolment and its spool"
            " (default: $TAILFLEET_AGENT_HOME, else ~/.tailfleet/agent)",
        )
    commands.add_parser("worker", help="the measured child; started by the agent itself")
    return parser


if __name__ == "__main__":
    sys.exit(main())
