"""The one exception tree of tailfleet.

::

    TailfleetError                 one sentence, who must act, and the command that mends it
     ├─ InputError                 the author of a request gave something that cannot be meant; names the path
     │   ├─ DecodeError            … in JSON: "job.schedule.keep[3]"
     │   └─ ScheduleError          … a schedule that its model or method cannot follow
     ├─ ConfigurationError         this installation lacks something or contradicts itself
     ├─ LabError                   a board or its surroundings: unreachable, out of memory, no sensor
     └─ InternalError              a bug in tailfleet

Each class says who must act (:class:`Blame`), so that a failure that travels over the wire keeps it.
"""

from enum import Enum
from typing import Optional


def join_path(path: str, inner: str) -> str:
    """``job`` and ``keep[3]`` are ``job.keep[3]``; ``job.units`` and ``[3]`` are ``job.units[3]``."""
    if not path or not inner:
        return path or inner
    return path + inner if inner.startswith("[") else "{}.{}".format(path, inner)


class Blame(Enum):
    """Who must act for a failure to go away."""

    AUTHOR = "author"
    """The one who asked for the job: the request itself is wrong."""
    LAB = "lab"
    """The one who keeps the board: power, memory, network, drivers."""
    CONFIGURATION = "configuration"
    """The one who installed tailfleet: a package or a setting is missing."""
    BUG = "bug"
    """The developers of tailfleet."""

    @property
    def who_must_act(self) -> str:
        """Who must act, and on what, in words for people."""
        return _WHO_MUST_ACT[self]


_WHO_MUST_ACT = {
    Blame.AUTHOR: "the job's author: change the request",
    Blame.LAB: "the lab: power, memory, network or drivers of the board",
    Blame.CONFIGURATION: "the installation: a package or a setting is missing",
    Blame.BUG: "tailfleet's developers: this is a bug",
}


class TailfleetError(Exception):
    """Something tailfleet can say in one sentence.

    ``sentence`` is for people; ``mend`` is the command or act that helps, where one is known.
    """

    blame = Blame.BUG

    def __init__(self, sentence: str, mend: Optional[str] = None) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.mend = mend


class InputError(TailfleetError):
    """What was asked for cannot be meant.

    ``path`` says which part of it, in the form ``job.schedule.keep[3]``, where it has parts; ``problem`` is the
    sentence without that.
    """

    blame = Blame.AUTHOR

    def __init__(self, problem: str, mend: Optional[str] = None, path: str = "") -> None:
        super().__init__("{}: {}".format(path, problem) if path else problem, mend)
        self.problem = problem
        self.path = path

    def inside(self, path: str) -> "DecodeError":
        """The same, told of the whole that holds at ``path`` what this was told of."""
        return DecodeError(join_path(path, self.path), self.problem, self.mend)


class DecodeError(InputError):
    """JSON that is not what was expected."""

    def __init__(self, path: str, problem: str, mend: Optional[str] = None) -> None:
        super().__init__(problem, mend, path)


class ScheduleError(InputError):
    """A schedule that its model or its method cannot follow."""


class ConfigurationError(TailfleetError):
    """This installation lacks something or contradicts itself."""

    blame = Blame.CONFIGURATION


class LabError(TailfleetError):
    """A board, or what surrounds it, is not as it must be."""

    blame = Blame.LAB


class InternalError(TailfleetError):
    """A bug in tailfleet."""

    blame = Blame.BUG
