"""JSON ⇄ dataclass, strict in both directions.

``decode`` accepts exactly what the dataclass declares: no unknown field, no missing one without a default,
no ``true`` where a number is meant, no number in a string, finite floats, integers that fit in 64 bits.
Every refusal is a :class:`~tailfleet_schema.errors.DecodeError` that names the path ("job.schedule.keep[3]").
A dataclass may check itself further in ``__post_init__`` by raising ``InputError``.

Understood annotations: ``bool int float str``, ``Any`` (any finite JSON value), ``Optional``, ``List``,
``Dict[str, …]``, ``Enum`` subclasses (by value), and dataclasses of these.
"""

import dataclasses
import json
import math
from enum import Enum
from typing import Any, Dict, List, Tuple, Type, TypeVar, Union, cast, get_type_hints

from tailfleet_schema.errors import DecodeError, InputError

T = TypeVar("T")

INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)

_HINTS: Dict[type, Dict[str, Any]] = {}


def dumps(value: Any) -> str:
    """The canonical JSON text of ``value``: sorted keys, no spaces, no NaN."""
    return json.dumps(encode(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def loads(kind: Type[T], text: Union[str, bytes], path: str = "") -> T:
    """Parse JSON ``text`` as a ``kind``. Raises ``DecodeError``."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        data = json.loads(text, parse_constant=_refuse_constant)
    except DecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise DecodeError(path, "not valid JSON ({})".format(error))
    return decode(kind, data, path)


def encode(value: Any) -> Any:
    """``value`` as JSON-ready lists, dicts and scalars. Raises ``DecodeError`` for what JSON cannot hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {str(key): encode(item) for key, item in value.items()}
    return _scalar(value, "")


def decode(kind: Type[T], data: Any, path: str = "") -> T:
    """``data`` (parsed JSON) as a ``kind``. Raises ``DecodeError``, which names the path of what is wrong."""
    return cast(T, _decode(kind, data, path))


def _decode(kind: Any, data: Any, path: str) -> Any:
    if kind is Any:
        return _anything(data, path)
    if kind is type(None):
        if data is not None:
            raise DecodeError(path, "must be null")
        return None
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _dataclass(kind, data, path)
    # Python 3.9 and 3.10 take list[int] for a type, and then refuse to compare it with a class.
    if isinstance(kind, type) and not hasattr(kind, "__origin__") and issubclass(kind, Enum):
        return _enum(kind, data, path)
    if kind in (bool, int, float, str):
        return _typed_scalar(kind, data, path)
    outer, arguments = _generic(kind)
    if outer is Union:
        return _union(arguments, data, path)
    if outer is list:
        if not isinstance(data, list):
            raise DecodeError(path, "must be a list, not {}".format(_name(data)))
        return [_decode(arguments[0], item, "{}[{}]".format(path, i)) for i, item in enumerate(data)]
    if outer is dict:
        if not isinstance(data, dict):
            raise DecodeError(path, "must be an object, not {}".format(_name(data)))
        return {key: _decode(arguments[1], item, _join(path, key)) for key, item in data.items()}
    raise TypeError("the codec does not understand the annotation {!r}".format(kind))


def _dataclass(kind: Any, data: Any, path: str) -> Any:
    if not isinstance(data, dict):
        raise DecodeError(path, "must be an object, not {}".format(_name(data)))
    hints = _HINTS.get(kind)
    if hints is None:
        hints = _HINTS[kind] = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in data:
        if key not in fields:
            raise DecodeError(_join(path, str(key)), "unknown field")
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _decode(hints[name], data[name], _join(path, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise DecodeError(_join(path, name), "is missing")
    try:
        return kind(**values)
    except DecodeError as error:
        raise DecodeError(_join(path, error.path), error.problem)
    except InputError as error:
        raise DecodeError(path, error.sentence)


def _union(arguments: Tuple[Any, ...], data: Any, path: str) -> Any:
    """Only ``Optional`` is understood: one type beside null."""
    if data is None and type(None) in arguments:
        return None
    others = [item for item in arguments if item is not type(None)]
    if len(others) != 1:
        raise TypeError("the codec does not understand unions of several types")
    return _decode(others[0], data, path)


def _enum(kind: Any, data: Any, path: str) -> Any:
    for member in kind:
        if member.value == data and type(member.value) is type(data):
            return member
    allowed = ", ".join(str(member.value) for member in kind)
    raise DecodeError(path, "must be one of {}; not {}".format(allowed, _shown(data)))


def _typed_scalar(kind: Any, data: Any, path: str) -> Any:
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        data = _scalar(data, path)
        return float(data)
    if type(data) is not kind:
        names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
        raise DecodeError(path, "must be {}, not {}".format(names[kind], _name(data)))
    return _scalar(data, path)


def _scalar(data: Any, path: str) -> Any:
    if data is None or isinstance(data, (bool, str)):
        return data
    if isinstance(data, int):
        if not INT64_MIN <= data <= INT64_MAX:
            raise DecodeError(path, "does not fit in 64 bits")
        return data
    if isinstance(data, float):
        if not math.isfinite(data):
            raise DecodeError(path, "must be finite, not {}".format(data))
        return data
    raise DecodeError(path, "cannot be written as JSON: {}".format(type(data).__name__))


def _anything(data: Any, path: str) -> Any:
    if isinstance(data, list):
        return [_anything(item, "{}[{}]".format(path, i)) for i, item in enumerate(data)]
    if isinstance(data, dict):
        return {key: _anything(item, _join(path, key)) for key, item in data.items()}
    return _scalar(data, path)


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


def _join(path: str, key: str) -> str:
    if not path:
        return key
    if not key:
        return path
    return path + key if key.startswith("[") else "{}.{}".format(path, key)


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


def _shown(data: Any) -> str:
    text = json.dumps(data, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
