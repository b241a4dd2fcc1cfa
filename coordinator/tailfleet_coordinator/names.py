"""What people may call things: one rule for boards, models and datasets, so that a name can stand in a path, a command
and a file's name without quoting.
"""

import re

from tailfleet_schema.errors import InputError
from tailfleet_schema.limits import NAME_LENGTH

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_name(what: str, name: str, most: int = NAME_LENGTH) -> None:
    """Raise ``InputError`` for what cannot be the name of a ``what``."""
    if not _NAME.fullmatch(name) or len(name) > most:
        raise InputError(
            f"a {what} cannot be called {name[: most + 1]!r}", f"use letters, digits, '.', '_' and '-', at most {most}"
        )
