"""What people may call things: one rule for boards, models and datasets, so that a name can stand in a path, a command
and a file's name without quoting.
"""

import re

from tailfleet_schema.errors import InputError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

MOST_CHARACTERS = 128


def check_name(what: str, name: str, most: int = MOST_CHARACTERS) -> None:
    """Raise ``InputError`` for what cannot be the name of a ``what``."""
    if not _NAME.fullmatch(name) or len(name) > most:
        raise InputError(
            f"a {what} cannot be called {name[: most + 1]!r}", f"use letters, digits, '.', '_' and '-', at most {most}"
        )
