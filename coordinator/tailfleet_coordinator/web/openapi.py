"""The document of the interface, ``/v1/openapi.json``: what each endpoint reads and answers, told from the dataclasses
that the codec decodes and encodes.

An endpoint says it with a decorator, and nothing else is to be done::

    @router.post("/enroll")
    @speaks(EnrolReply, body=EnrolRequest)
    async def enroll(request: Request) -> Response: ...

The document is as strict as the codec where JSON Schema can be: no unknown fields, 64-bit integers. Reading bodies is
left to ``wire``; FastAPI is told nothing of them.
"""

import dataclasses
import inspect
import types
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, TypeVar, Union, get_args, get_origin

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from tailfleet_schema import codec
from tailfleet_schema.messages import ErrorReply

JsonSchema = dict[str, Any]
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_SPOKEN = "tailfleet_spoken"


@dataclasses.dataclass(frozen=True)
class Spoken:
    """What an endpoint reads and answers: dataclasses, or ``bytes``; ``reply`` may be ``dict`` for what is not in the
    document, and ``body`` None for none."""

    reply: Any
    body: Any = None


def speaks(reply: Any, body: Any = None) -> Callable[[Endpoint], Endpoint]:
    """Note what the endpoint answers and reads, for the document and for ``wire.check_address``."""

    def note(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _SPOKEN, Spoken(reply, body))
        return endpoint

    return note


def spoken_by(endpoint: Callable[..., Any]) -> Spoken:
    """What the endpoint noted. Raises ``TypeError`` where it noted nothing: its author forgot."""
    spoken = getattr(endpoint, _SPOKEN, None)
    if not isinstance(spoken, Spoken):
        raise TypeError(f"the endpoint {endpoint.__qualname__} lacks @speaks(…)")
    return spoken


class Application(FastAPI):
    """FastAPI with our document."""

    def openapi(self) -> dict[str, Any]:
        """The document, made when it is first asked for."""
        if self.openapi_schema is None:
            document = super().openapi()
            kinds: set[Any] = {ErrorReply}
            for route in iter_route_contexts(self.routes):
                if route.path not in document["paths"] or route.endpoint is None:
                    continue
                spoken = spoken_by(route.endpoint)
                kinds |= {spoken.body, spoken.reply} - {None, bytes}
                for method in route.methods or ():
                    document["paths"][route.path][method.lower()].update(_operation(spoken))
            document.setdefault("components", {})["schemas"] = components(kinds)
            self.openapi_schema = document
        return self.openapi_schema


def components(kinds: Iterable[Any]) -> dict[str, JsonSchema]:
    """The JSON Schemas of the dataclasses and enumerations, and of all that they hold, by name."""
    found: dict[str, JsonSchema] = {}
    waiting = list(kinds)
    while waiting:
        kind = waiting.pop()
        if kind.__name__ not in found:
            found[kind.__name__], inner = _component(kind)
            waiting += inner
    return dict(sorted(found.items()))


def _operation(spoken: Spoken) -> JsonSchema:
    parts: JsonSchema = {}
    if spoken.reply is bytes:
        answer: JsonSchema = {"application/octet-stream": {"schema": {}}}
        parts = {"206": {"description": "The part that the header Range asks for", "content": answer}}
    else:
        answer = {"application/json": {"schema": _reference(spoken.reply)}}
    refusal = {"application/json": {"schema": _reference(ErrorReply)}}
    operation: JsonSchema = {
        "responses": {
            "200": {"description": "It is done, or here it is", "content": answer},
            **parts,
            "4XX": {"description": "Refused, and nothing stored", "content": refusal},
            "503": {"description": "Another coordinator writes to the database now", "content": refusal},
        }
    }
    if spoken.body is bytes:
        operation["requestBody"] = {"required": True, "content": {"application/octet-stream": {"schema": {}}}}
        operation["responses"]["507"] = {"description": "The coordinator's disk has no room", "content": refusal}
    elif spoken.body is not None:
        content = {"application/json": {"schema": _reference(spoken.body)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _component(kind: Any) -> tuple[JsonSchema, list[Any]]:
    """The schema of one dataclass or enumeration, and those that it names."""
    about = (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("\n", " ")
    if issubclass(kind, Enum):
        return {"description": about, "type": "string", "enum": [member.value for member in kind]}, []
    named: list[Any] = []
    properties, required = {}, []
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    for name, (annotation, is_required) in codec.fields_of(kind).items():
        properties[name] = _schema(annotation, named)
        if is_required:
            required.append(name)
        elif defaults[name] is not dataclasses.MISSING:
            properties[name] = {**properties[name], "default": codec.encode(defaults[name])}
    schema: JsonSchema = {"description": about, "type": "object", "properties": properties}
    return {**schema, "required": required, "additionalProperties": False}, named


def _schema(annotation: Any, named: list[Any]) -> JsonSchema:
    """The schema of an annotation that the codec understands; dataclasses and enumerations are added to ``named``."""
    plain: dict[Any, JsonSchema] = {
        Any: {},
        bool: {"type": "boolean"},
        int: {"type": "integer", "format": "int64", "minimum": codec.INT64_MIN, "maximum": codec.INT64_MAX},
        float: {"type": "number", "format": "double"},
        str: {"type": "string"},
        type(None): {"type": "null"},
    }
    if annotation in plain:
        return plain[annotation]
    outer, arguments = get_origin(annotation), get_args(annotation)
    if outer in (Union, types.UnionType):
        return {"anyOf": [_schema(argument, named) for argument in arguments]}
    if outer is list:
        return {"type": "array", "items": _schema(arguments[0], named)}
    if outer is dict:
        return {"type": "object", "additionalProperties": _schema(arguments[1], named)}
    named.append(annotation)
    return _reference(annotation)


def _reference(kind: Any) -> JsonSchema:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}
