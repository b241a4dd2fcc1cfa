"""How long work on many files tells where it stands."""

from typing import Protocol


class Progress(Protocol):
    """Called again and again while something is read or sent."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """``done`` of ``total`` bytes of ``what`` (a word or two) are through."""


def silent(what: str, done: int, total: int) -> None:
    """Tell nobody."""
