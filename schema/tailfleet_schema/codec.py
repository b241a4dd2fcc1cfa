"""JSON ⇄ dataclass, strict in both directions.

``decode`` accepts exactly what the dataclass declares: no unknown field, no missing one without a default, no ``true``
where a number is meant, no number in a string, no ``1.0`` for 1, finite floats, integers that fit in 64 bits, texts
that every database holds (no U+0000, no half of a surrogate pair), ``Any`` at most ``MOST_NESTED`` deep. ``loads``
refuses a name that stands twice in one object, too.
Every refusal is a :class:`~tailfleet_schema.errors.DecodeError` that names the path ("job.schedule.keep[3]"), also
what a dataclass refuses itself in ``__post_init__`` by raising ``InputError``.

What ``dumps`` writes, ``loads`` reads: a character that it would refuse (a log or a file's name may hold one) is
written as U+FFFD.

Understood annotations: ``bool int float str``, ``Any`` (any finite JSON value), ``Optional``, ``List``,
``Dict[str, …]``, ``Enum`` subclasses (by value), and dataclasses of these.
"""

import dataclasses
import json
import math
import re
from enum import Enum
from typing import Any, Callable, Dict, List, Tuple, Type, TypeVar, Union, cast, get_type_hints

from tailfleet_schema.errors import DecodeError, InputError

T = TypeVar("T")

INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)

MOST_NESTED = 32
"""Levels of lists and objects within an ``Any``. Python's own stack would end far later, and without a sentence."""

_INT64_CHARACTERS = 20
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
_FIELDS: Dict[Any, Dict[str, Tuple[Any, bool]]] = {}


def dumps(value: Any) -> str:
    """The canonical JSON text of ``value``: sorted keys, no spaces, no NaN, no −0.0."""
    return _CANONICAL.encode(encode(value))


def loads(kind: Type[T], text: Union[str, bytes], path: str = "") -> T:
    """Parse JSON ``text`` as a ``kind``. Raises ``DecodeError``."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        data = json.loads(text, parse_constant=_refuse_constant, parse_int=_whole, object_pairs_hook=_object)
    except DecodeError as error:
        raise error.inside(path)
    except ValueError as error:
        raise DecodeError(path, "not valid JSON ({})".format(error))
    except RecursionError:
        raise DecodeError(path, "not valid JSON here (nested too deep)")
    return decode(kind, data, path)


def encode(value: Any) -> Any:
    """``value`` as JSON-ready lists, dicts and scalars. Raises ``DecodeError`` for what JSON cannot hold."""
    return _ENCODERS[type(value)](value)


def decode(kind: Type[T], data: Any, path: str = "") -> T:
    """``data`` (parsed JSON) as a ``kind``. Raises ``DecodeError``, which names the path of what is wrong."""
    try:
        return cast(T, _decode(kind, data))
    except DecodeError as error:
        raise error.inside(path)


def fields_of(kind: Any) -> Dict[str, Tuple[Any, bool]]:
    """Each field of a dataclass by name: its annotation, and whether JSON must have it."""
    known = _FIELDS.get(kind)
    if known is None:
        hints = get_type_hints(kind)
        known = _FIELDS[kind] = {
            field.name: (
                hints[field.name],
                field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
            )
            for field in dataclasses.fields(kind)
        }
    return known


def storable(text: str) -> str:
    """``text`` with U+FFFD for every character that ``decode`` refuses."""
    return _UNSTORABLE.sub("\ufffd", text)


class _Encoders(Dict[type, Callable[[Any], Any]]):
    """What encodes values of a type: asked for every part of a value, and so found out once for each type."""

    def __missing__(self, kind: type) -> Callable[[Any], Any]:
        found = self[kind] = self._of(kind)
        return found

    def _of(self, kind: type) -> Callable[[Any], Any]:
        if dataclasses.is_dataclass(kind):
            names = [field.name for field in dataclasses.fields(kind)]
            return lambda value: {name: encode(getattr(value, name)) for name in names}
        if issubclass(kind, Enum):
            return lambda value: value.value
        if issubclass(kind, (list, tuple)):
            return lambda value: [self[type(item)](item) for item in value]
        if issubclass(kind, dict):
            return lambda value: {storable(str(key)): encode(item) for key, item in value.items()}
        if issubclass(kind, str):
            return storable
        return _number if kind in (int, float) else _scalar


_ENCODERS = _Encoders()
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


# Below, a refusal is told of the part that is decoded; each level that it passes puts its own name before the path, so
# that no path is written for what is right.


def _decode(kind: Any, data: Any) -> Any:
    if kind is Any:
        return _anything(data, 0)
    if kind is type(None):
        if data is not None:
            raise DecodeError("", "must be null")
        return None
    if kind in (bool, int, float, str):
        return _typed_scalar(kind, data)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _dataclass(kind, data)
    # Python 3.9 and 3.10 take list[int] for a type, and then refuse to compare it with a class.
    if isinstance(kind, type) and not hasattr(kind, "__origin__") and issubclass(kind, Enum):
        return _enum(kind, data)
    outer, arguments = _generic(kind)
    if outer is Union:
        return _union(arguments, data)
    if outer is list:
        if not isinstance(data, list):
            raise DecodeError("", "must be a list, not {}".format(_name(data)))
        return _list(arguments[0], data)
    if outer is dict:
        if not isinstance(data, dict):
            raise DecodeError("", "must be an object, not {}".format(_name(data)))
        return _members(data, lambda item: _decode(arguments[1], item))
    raise TypeError("the codec does not understand the annotation {!r}".format(kind))


def _dataclass(kind: Any, data: Any) -> Any:
    if not isinstance(data, dict):
        raise DecodeError("", "must be an object, not {}".format(_name(data)))
    fields = fields_of(kind)
    for key in data:
        if key not in fields:
            raise DecodeError(_shown_key(key), "unknown field")
    values = {}
    for name, (annotation, required) in fields.items():
        if name in data:
            values[name] = _field(annotation, data[name], name)
        elif required:
            raise DecodeError(name, "is missing")
    try:
        return kind(**values)
    except InputError as error:
        raise error.inside("")


def _field(kind: Any, data: Any, name: str) -> Any:
    try:
        return _decode(kind, data)
    except DecodeError as error:
        raise error.inside(_shown_key(name))


def _list(kind: Any, data: List[Any]) -> List[Any]:
    items: List[Any] = []
    try:
        for item in data:
            items.append(_decode(kind, item))  # noqa: PERF401 - how many there are says which one is refused
    except DecodeError as error:
        raise error.inside("[{}]".format(len(items)))
    return items


def _members(data: Dict[str, Any], decode_one: Callable[[Any], Any]) -> Dict[str, Any]:
    found = {}
    for key, item in data.items():
        try:
            if _UNSTORABLE.search(key):
                raise DecodeError("", "its name cannot be stored")
            found[key] = decode_one(item)
        except DecodeError as error:
            raise error.inside(_shown_key(key))
    return found


def _union(arguments: Tuple[Any, ...], data: Any) -> Any:
    """Only ``Optional`` is understood: one type beside null."""
    if data is None and type(None) in arguments:
        return None
    others = [item for item in arguments if item is not type(None)]
    if len(others) != 1:
        raise TypeError("the codec does not understand unions of several types")
    return _decode(others[0], data)


def _enum(kind: Any, data: Any) -> Any:
    for member in kind:
        if member.value == data and type(member.value) is type(data):
            return member
    allowed = ", ".join(str(member.value) for member in kind)
    raise DecodeError("", "must be one of {}; not {}".format(allowed, shown(data)))


def _typed_scalar(kind: Any, data: Any) -> Any:
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(_scalar(data))
    if type(data) is not kind:
        names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
        raise DecodeError("", "must be {}, not {}".format(names[kind], _name(data)))
    return _scalar(data)


def _scalar(data: Any) -> Any:
    if data is None or isinstance(data, bool):
        return data
    if isinstance(data, str):
        return _text(data)
    if isinstance(data, (int, float)):
        return _number(data)
    raise DecodeError("", "cannot be written as JSON: {}".format(type(data).__name__))


def _number(data: Any) -> Any:
    if isinstance(data, int):
        if not INT64_MIN <= data <= INT64_MAX:
            raise DecodeError("", "does not fit in 64 bits")
        return data
    if not math.isfinite(data):
        raise DecodeError("", "must be finite, not {}".format(data))
    # −0.0 equals 0.0, and what is equal has one digest.
    return data + 0.0


def _text(data: str) -> str:
    found = _UNSTORABLE.search(data)
    if found:
        what = "the character U+0000" if found.group() == "\x00" else "half of a surrogate pair"
        raise DecodeError("", "holds {}, which cannot be stored".format(what))
    return data


def _anything(data: Any, depth: int) -> Any:
    if depth > MOST_NESTED:
        raise DecodeError("", "is nested more than {} deep".format(MOST_NESTED))
    if isinstance(data, list):
        items: List[Any] = []
        try:
            for item in data:
                items.append(_anything(item, depth + 1))  # noqa: PERF401 - as in _list
        except DecodeError as error:
            raise error.inside("[{}]".format(len(items)))
        return items
    if isinstance(data, dict):
        return _members(data, lambda item: _anything(item, depth + 1))
    return _scalar(data)


def _generic(kind: Any) -> Tuple[Any, Tuple[Any, ...]]:
    """The plain container behind ``List[int]`` and its arguments; Python 3.6 calls it ``typing.List``."""
    if type(kind).__name__ == "UnionType":
        # Python 3.10 to 3.13 write ``X | None`` as a type of its own.
        return Union, kind.__args__
    outer = getattr(kind, "__origin__", None)
    arguments = getattr(kind, "__args__", None) or ()
    plain: Dict[Any, Any] = {List: list, Dict: dict}
    try:
        return plain.get(outer, outer), arguments
    except TypeError:
        return outer, arguments


def _refuse_constant(name: str) -> Any:
    raise DecodeError("", "not valid JSON ({} is not a number)".format(name))


def _whole(digits: str) -> int:
    """JSON's whole number. Too long a one is not read, only made too large: a million digits would take seconds."""
    return int(digits) if len(digits) <= _INT64_CHARACTERS else INT64_MAX + 1


def _object(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen = set()
        for name, _ in pairs:
            if name in seen:
                raise DecodeError("", "not valid JSON ({} stands twice in one object)".format(shown(name)))
            seen.add(name)
    return found


def _shown_key(key: str) -> str:
    """A name as part of a path: as it is where it is a plain one, else as short JSON."""
    return key if _PLAIN_NAME.fullmatch(key) else shown(key)


def _name(data: Any) -> str:
    if data is None:
        return "null"
    for kind, name in (
        (bool, "true or false"),
        (int, "a whole number"),
        (float, "a number"),
        (str, "a text"),
        (list, "a list"),
        (dict, "an object"),
    ):
        if isinstance(data, kind):
            return name
    return type(data).__name__


def shown(data: Any) -> str:
    """``data`` as JSON for a sentence, in ASCII and at most 60 characters; of a list or object only that it is one."""
    if isinstance(data, (list, dict)):
        return _name(data)
    text = json.dumps(data[:61] if isinstance(data, str) else data, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
