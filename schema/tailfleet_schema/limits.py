"""How long a name and how large a count may be: what fits into the database's columns, and what can be meant.

Each check raises ``InputError`` with the path of the field that it is told of.
"""

import re
from typing import Iterable, List

from tailfleet_schema.errors import InputError

NAME_LENGTH = 128
"""Characters of a model's, a dataset's or a machine's name."""

LABEL_LENGTH = 64
"""Characters of a board's name, of a unit's label, and of a sha256 in hexadecimal."""

COUNT_MAX = 2**31 - 1
"""The largest count that is stored: PostgreSQL's integer."""

MOST_NAMES = 1000
"""Names in one list of a request."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


def check_count(path: str, value: int, low: int, high: int = COUNT_MAX) -> None:
    """Refuse a number below ``low`` or above ``high``."""
    if value < low:
        raise InputError("must be at least {}, not {}".format(low, value), path=path)
    if value > high:
        raise InputError("must be at most {}, not {}".format(high, value), path=path)


def check_name(path: str, value: str, length: int = NAME_LENGTH) -> None:
    """Refuse an empty name, or one of more than ``length`` characters."""
    if not value:
        raise InputError("is empty", path=path)
    if len(value) > length:
        raise InputError("has {} characters; at most {} are taken".format(len(value), length), path=path)


def check_names(path: str, values: List[str], length: int = NAME_LENGTH) -> None:
    """Refuse a list that is empty, is longer than ``MOST_NAMES``, names something twice, or holds no names."""
    if not values:
        raise InputError("is empty", path=path)
    if len(values) > MOST_NAMES:
        raise InputError("has {} names; at most {} are taken".format(len(values), MOST_NAMES), path=path)
    seen = set()
    for place, value in enumerate(values):
        check_name("{}[{}]".format(path, place), value, length)
        if value in seen:
            raise InputError("{!r} is named twice".format(value), path="{}[{}]".format(path, place))
        seen.add(value)


def check_known(path: str, value: str, known: Iterable[str]) -> None:
    """Refuse what is not among ``known``."""
    if value not in known:
        raise InputError("unknown: {!r}; known: {}".format(value[:60], ", ".join(known)), path=path)


def check_digest(path: str, value: str) -> None:
    """Refuse what is no sha256 in hexadecimal: a file is named by it."""
    if not _DIGEST.fullmatch(value):
        raise InputError("must be a sha256: 64 hexadecimal digits", path=path)
