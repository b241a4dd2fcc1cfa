"""The machine that the coordinator itself runs on, named as a board's agent on it would name it."""

import subprocess
import sys

from tailfleet_schema.errors import ConfigurationError

# Asked of the agent's own probe in a process of its own: the two sides share no code, and must not differ here.
_PROGRAM = "from tailfleet_agent.probes import machine; print(machine.read('/'))"

PATIENCE_SECONDS = 60.0


def machine_id() -> str:
    """The ``machine_id`` that agents on this machine tell. Raises ``ConfigurationError`` where the agent is missing."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigurationError(
            f"the agent's package does not run on this machine: {error}", "install tailfleet again"
        ) from error
    return done.stdout.strip()
