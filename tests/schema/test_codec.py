import dataclasses
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Dict, List, Optional

import pytest

from tailfleet_schema import codec
from tailfleet_schema.errors import DecodeError, InputError


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Leaf:
    keep: List[int]
    share: float = 0.5
    colour: Colour = Colour.RED

    def __post_init__(self) -> None:
        if self.share > 1:
            raise InputError("share is above 1")


@dataclass(frozen=True)
class Tree:
    name: str
    leaf: Leaf
    maybe: Optional[int] = None
    flag: bool = False
    extra: Dict[str, Any] = field(default_factory=dict)
    leaves: List[Leaf] = field(default_factory=list)


TREE = {"name": "t", "leaf": {"keep": [3, 2]}, "leaves": [{"keep": [1]}]}


def test_round_trip_keeps_everything():
    tree = Tree("t", Leaf([1, 2], 0.25, Colour.BLUE), 7, True, {"a": [1, 2.5, None, {"b": "c"}]}, [Leaf([])])
    assert codec.loads(Tree, codec.dumps(tree)) == tree


def test_defaults_fill_what_is_absent():
    assert codec.decode(Tree, TREE) == Tree("t", Leaf([3, 2]), leaves=[Leaf([1])])


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        ({"leaf": {"keep": [3, 2, 1, "4"]}}, "job.leaf.keep[3]", "whole number"),
        ({"leaf": {"keep": [True]}}, "job.leaf.keep[0]", "whole number"),
        ({"leaf": {"keep": [1.0]}}, "job.leaf.keep[0]", "whole number"),
        ({"leaf": {"keep": [2**63]}}, "job.leaf.keep[0]", "64 bits"),
        ({"leaf": {"keep": [10**30]}}, "job.leaf.keep[0]", "64 bits"),
        ({"leaf": {"keep": [], "share": "0.5"}}, "job.leaf.share", "a number"),
        ({"leaf": {"keep": [], "share": float("nan")}}, "job.leaf.share", "finite"),
        ({"leaf": {"keep": [], "share": float("inf")}}, "job.leaf.share", "finite"),
        ({"leaf": {"keep": [], "share": 2}}, "job.leaf", "above 1"),
        ({"leaf": {"keep": [], "colour": "green"}}, "job.leaf.colour", "red, blue"),
        ({"leaf": {"keep": [], "shine": 1}}, "job.leaf.shine", "unknown field"),
        ({"leaf": {}}, "job.leaf.keep", "missing"),
        ({"leaf": None}, "job.leaf", "an object"),
        ({"name": 3}, "job.name", "a text"),
        ({"flag": 1}, "job.flag", "true or false"),
        ({"extra": {"deep": [1, float("nan")]}}, "job.extra.deep[1]", "finite"),
        ({"leaves": {}}, "job.leaves", "a list"),
        ({"leaves": [{"keep": [None]}]}, "job.leaves[0].keep[0]", "whole number"),
    ],
)
def test_a_refusal_names_the_path(change, path, words):
    with pytest.raises(DecodeError) as caught:
        codec.decode(Tree, {**TREE, **change}, "job")
    assert caught.value.path == path
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "NaN", '{"a": NaN}', '{"a": -Infinity}', b"\xff", "[" * 100000])
def test_text_that_is_not_json_is_refused(text):
    with pytest.raises(DecodeError, match="not valid JSON"):
        codec.loads(Tree, text)


def test_what_json_cannot_hold_is_not_encoded():
    with pytest.raises(DecodeError):
        codec.dumps([float("inf")])
    with pytest.raises(DecodeError):
        codec.dumps({"a": object()})


def test_dumps_is_canonical():
    assert codec.dumps({"b": 1, "a": [Colour.BLUE]}) == '{"a":["blue"],"b":1}'


def test_every_wire_type_has_annotations_that_the_codec_understands():
    """An annotation outside the codec's reach would only fail when such a message first arrives."""
    from tailfleet_schema import board, campaign, curve, job, messages, schedule, workload

    def check(kind):
        if kind in (bool, int, float, str, type(None)) or kind is Any:
            return
        if isinstance(kind, type) and issubclass(kind, Enum):
            return
        if dataclasses.is_dataclass(kind):
            for hint in codec.get_type_hints(kind).values():
                check(hint)
            return
        outer, arguments = codec._generic(kind)
        assert outer in (list, dict, codec.Union), kind
        for argument in arguments:
            check(argument)

    for module in (board, campaign, curve, job, messages, schedule, workload):
        for kind in vars(module).values():
            if isinstance(kind, type) and dataclasses.is_dataclass(kind):
                check(kind)
