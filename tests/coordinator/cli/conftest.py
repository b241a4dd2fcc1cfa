"""The command line against the real application."""

import re

import pytest
from typer.testing import CliRunner

from tailfleet_coordinator.cli import campaign, curve, job, main, schedule, sweep
from tailfleet_coordinator.client import Fleet


@pytest.fixture
def cli(live, monkeypatch):
    """``cli(*arguments)``: what the command prints, every run of blanks and lines of a table as one blank. Raises what
    it raises."""

    def run(*arguments):
        done = CliRunner().invoke(main.app, list(arguments))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return " ".join(re.sub("[\u2500-\u257f]", " ", done.output).split())

    # A command leaves its connections to the end of its process, which here goes on.
    with Fleet(live.url, live.operator) as fleet:
        for module in (campaign, curve, job, schedule, sweep):
            monkeypatch.setattr(module, "fleet", lambda: fleet)
        yield run
