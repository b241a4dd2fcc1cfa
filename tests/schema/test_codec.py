import dataclasses
import json
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any, Dict, List, NamedTuple, Optional

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
            raise InputError("is above 1", path="share")
        if len(self.keep) > 3:
            raise InputError("there are too many")


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
        ({"leaf": {"keep": [], "share": 2}}, "job.leaf.share", "above 1"),
        ({"leaf": {"keep": [1, 2, 3, 4]}}, "job.leaf", "too many"),
        ({"leaves": [{"keep": []}, {"keep": [], "share": 2}]}, "job.leaves[1].share", "above 1"),
        ({"leaf": {"keep": [], "share": 10**30}}, "job.leaf.share", "64 bits"),
        ({"leaf": {"keep": [], "colour": [[]]}}, "job.leaf.colour", "not a list"),
        ({"name": "a\0"}, "job.name", "U+0000"),
        ({"name": "\ud800"}, "job.name", "surrogate"),
        ({"extra": {"deep": ["\udfff"]}}, "job.extra.deep[0]", "surrogate"),
        ({"extra": {"a\0": 1}}, 'job.extra."a\\u0000"', "its name cannot be stored"),
        ({"extra": {"deep": {"\ud800": 1}}}, 'job.extra.deep."\\ud800"', "its name"),
        ({"a b": 1}, 'job."a b"', "unknown field"),
        ({"x" * 100: 1}, 'job."' + "x" * 56 + "...", "unknown field"),
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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"name": "t", "name": "t"}', '"name" stands twice'),
        ('{"name": "t", "extra": {"a": [{"b": 1, "c": 2, "b": 3}]}}', '"b" stands twice'),
        ("\ufeff{}", "BOM"),
        ('{"leaf": ' * 100000, "nested too deep"),
    ],
)
def test_json_of_two_meanings_or_none_is_refused(text, words):
    for given in (text, text.encode("utf-8")):
        with pytest.raises(DecodeError, match="job: not valid JSON") as caught:
            codec.loads(Tree, given, "job")
        assert words in str(caught.value)


def test_a_number_of_a_million_digits_is_not_computed():
    started = time.process_time()
    for digits in ("9" * 10**6, "-" + "9" * 10**6, "9" * 30):
        for form in ('{"leaf": {"keep": [%s]}}', '{"leaf": {"keep": [], "share": %s}}', '{"extra": {"a": %s}}'):
            with pytest.raises(DecodeError, match=r"does not fit in 64 bits|is missing"):
                codec.loads(Tree, form % digits)
    with pytest.raises(DecodeError, match=r"leaf\.keep\[1\]: does not fit in 64 bits"):
        codec.loads(Tree, '{"name": "t", "leaf": {"keep": [1, %s]}}' % ("9" * 10**6))
    # Computing one of them takes some ten seconds where Python does not refuse it.
    assert time.process_time() - started < 2


def test_the_largest_and_smallest_numbers_pass():
    ends = [codec.INT64_MIN, codec.INT64_MAX]
    assert codec.loads(Leaf, '{"keep": [-9223372036854775808, 9223372036854775807]}').keep == ends
    for beyond in ("9223372036854775808", "-9223372036854775809"):
        with pytest.raises(DecodeError, match="64 bits"):
            codec.loads(Leaf, '{"keep": [%s]}' % beyond)


@pytest.mark.parametrize("text", ['{"share": 1e999, "keep": []}', '{"share": -1e999, "keep": []}'])
def test_a_number_beyond_all_floats_is_not_finite(text):
    with pytest.raises(DecodeError, match="share: must be finite"):
        codec.loads(Leaf, text)


def test_equal_values_have_one_text():
    assert codec.dumps(codec.loads(Leaf, '{"keep": [], "share": -0.0}')) == codec.dumps(Leaf([], 0.0))
    assert codec.dumps(Leaf([], -0.0)) == codec.dumps(Leaf([], 0.0))
    assert codec.dumps(codec.loads(Leaf, '{"keep": [], "share": 1}')) == codec.dumps(Leaf([], 1.0))


def test_any_is_as_deep_as_may_be_and_no_deeper():
    def nested(levels):
        return {"name": "t", "leaf": {"keep": []}, "extra": {"a": json.loads("[" * levels + "]" * levels)}}

    assert codec.decode(Tree, nested(codec.MOST_NESTED + 1))
    for levels in (codec.MOST_NESTED + 2, 300):
        with pytest.raises(DecodeError, match=r"extra\.a\[0\].*: is nested more than 32 deep"):
            codec.decode(Tree, nested(levels))


def test_what_is_written_can_be_read():
    """A log or a file's name may hold what no database does."""
    tree = Tree("a\0b\ud800c", Leaf([]), extra={"\0": "\udc80"})
    again = codec.loads(Tree, codec.dumps(tree))
    assert (again.name, again.extra) == ("a\ufffdb\ufffdc", {"\ufffd": "\ufffd"})
    smile = Tree("\U0001f600", Leaf([]))
    assert codec.loads(Tree, codec.dumps(smile)) == smile
    assert codec.loads(Tree, '{"name": "\\ud83d\\ude00", "leaf": {"keep": []}}') == smile


def test_a_refusal_keeps_its_mend_on_the_way_up():
    error = InputError("is odd", "make it even", "keep[3]").inside("schedules[0]").inside("job")
    assert (error.path, error.problem, error.mend) == ("job.schedules[0].keep[3]", "is odd", "make it even")
    assert error.sentence == "job.schedules[0].keep[3]: is odd"
    assert InputError("is odd").inside("").sentence == "is odd"


def test_what_json_cannot_hold_is_not_encoded():
    with pytest.raises(DecodeError):
        codec.dumps([float("inf")])
    with pytest.raises(DecodeError):
        codec.dumps({"a": object()})


def test_what_derives_from_a_plain_type_is_written_as_that():
    class Count(int):
        pass

    class Share(float):
        pass

    class Name(str):
        pass

    class Level(IntEnum):
        LOW = 1

    class Pair(NamedTuple):
        a: Any
        b: Any

    value = [Pair(Count(3), Share(-0.0)), Name("a\0"), Level.LOW, True, None, OrderedDict([(Name("b"), (1, 2.5))])]
    assert codec.dumps(value) == '[[3,0.0],"a\ufffd",1,true,null,{"b":[1,2.5]}]'.replace("\ufffd", "\\ufffd")
    for bad in (Count(2**63), Share("nan"), Count):
        with pytest.raises(DecodeError):
            codec.encode([bad])


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
