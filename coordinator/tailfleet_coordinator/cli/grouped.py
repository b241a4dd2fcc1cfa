"""Options that several commands share, written down once: as the fields of a dataclass.

A command takes the dataclass as one parameter; the command line shows its fields as options of their own.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """``command``, with its one parameter of a dataclass spread into the dataclass's fields, at the same place.

    Each field is annotated as a parameter of a command is (``Annotated[int, typer.Option(…)]``) and has a default.
    """
    own = inspect.signature(command).parameters
    (group,) = [parameter for parameter in own.values() if dataclasses.is_dataclass(parameter.annotation)]
    fields = inspect.signature(group.annotation).parameters

    def spread(**given: Any) -> None:
        values = {name: given.pop(name) for name in fields}
        command(**{group.name: group.annotation(**values)}, **given)

    shown: list[inspect.Parameter] = []
    for parameter in own.values():
        shown += fields.values() if parameter is group else [parameter]
    keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in shown]
    spread.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    spread.__name__, spread.__doc__ = command.__name__, command.__doc__
    return spread
