"""Invalid rules are refused with their path, and hostile rules end soon: neither hangs nor breaks the server."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from flagsvc.api.flag_service.messages import explanation_to_message
from flagsvc.core.errors import InvalidRequest
from flagsvc.core.evaluation import ErrorCode, Outcome, explain, prepare
from flagsvc.core.model import Flag, Status
from flagsvc.core.targeting import RuleError, WrongRule, compile_rule
from flagsvc.core.targeting.cost import too_expensive
from flagsvc.core.targeting.nodes import MAX_STEPS
from flagsvc.core.validation import MAX_CONTEXT_BYTES, MAX_RULE_BYTES, validated
from flagsvc.generated.flagsvc.v1.flag_service_pb2 import Explanation
from tests.yardstick import cost

EVALUATION, WHOLE = 2, 200
"""In yardsticks: twice what one evaluation may cost; and checking a flag, or explaining an evaluation."""
MEMORY_BYTES = 40_000_000


def nested(operator: str, depth: int, leaf: str = "1") -> str:
    return f'{{"{operator}":[' * depth + leaf + "]}" * depth


def flag(targeting: str | None = None, evaluators: dict[str, str] | None = None, **fields: Any) -> Flag:
    return Flag(key="k", status=Status.ENABLED, targeting=targeting, evaluators=evaluators or {}, **fields)


def refusal(wrong: Flag) -> str:
    texts: list[str] = []

    def refuse() -> None:
        with pytest.raises(InvalidRequest) as refused:
            validated(wrong)
        texts.append(str(refused.value))

    assert cost(refuse, 1) < WHOLE
    return texts[0]


# Targeting text, and the path and the reason in the refusal.
WRONG = {
    "a 30,000 levels deep rule": (nested("!", 30_000), "flag.targeting", "nested too deeply"),
    "a 101 levels deep rule": (nested("!", 101), '["!"][0]["!"]', "nested more than 100 deep"),
    "a list 100,000 levels deep": ("[" * 100_000 + "]" * 100_000, "flag.targeting", "nested too deeply"),
    "a literal 30 levels deep": (
        '{"!":[{"x":1,"y":' + "[" * 30 + "]" * 30 + "}]}",
        'flag.targeting["!"][0]',
        "24 deep",
    ),
    "a 10 MB text": (json.dumps({"cat": ["a" * 10_000_000]}), "flag.targeting", "at most 262144"),
    "a 10 MB list": ('{"in":[1,[0' + ",0" * 5_000_000 + "]]}", "flag.targeting", "at most 262144"),
    "more parts than 10,000": (json.dumps({"and": [{"!": [1]}] * 15_000}), "flag.targeting.and[9999]", "10000 parts"),
    "NaN": ('{"+":[NaN]}', "flag.targeting", "NaN is not a JSON number"),
    "infinity": ('{"+":[-Infinity]}', "flag.targeting", "-Infinity is not a JSON number"),
    "a number beyond doubles": ('{"+":[1e400]}', "flag.targeting", "1e400 is out of range for a 64-bit float"),
    "a number beyond int64": ('{"+":[9223372036854775808]}', 'flag.targeting["+"][0]', "-2^63 to 2^63-1"),
    "such a number in a list": ('{"in":[{"var":"x"},[9223372036854775808]]}', "flag.targeting.in[1][0]", "-2^63 to"),
    "a number of 5,000 digits": ('{"+":[' + "9" * 5_000 + "]}", "flag.targeting", "digits"),
    "a field twice": ('{"if":[true,"on"],"if":[true,"off"]}', "flag.targeting", 'duplicate field "if" in one object'),
    "a field twice inside": ('{"in":[1,[{"a":1,"b":2,"a":3}]]}', "flag.targeting", 'duplicate field "a" in one object'),
    "an escaped lone surrogate": ('{"!":["\\ud800"]}', "flag.targeting", "a lone surrogate"),
    "a lone surrogate": ('{"!":["\ud800"]}', "flag.targeting", "a lone surrogate"),
    "no JSON": ("{", "flag.targeting", "line 1, column 2"),
    "two values": ('{"!":[1]} 2', "flag.targeting", "line 1, column 11"),
    "a byte order mark": ('\ufeff{"!":[1]}', "flag.targeting", "line 1, column 1"),
    "a list for a rule": ('["on"]', "flag.targeting", "it must be an object"),
    "a text for a rule": ('"on"', "flag.targeting", "it must be an object"),
    "an object that is no rule": ('{"a":[true,"on"],"b":[]}', "flag.targeting", "not one of the flag's variants"),
    "an unknown operator": (
        '{"if":[{"and":[true,{"foo":1}]},"on"]}',
        "flag.targeting.if[0].and[1].foo",
        "unknown operator",
    ),
    "too few arguments": ('{"if":[{"==":[1]},"on"]}', 'flag.targeting.if[0]["=="]', "has 1 arguments; it must have 2"),
    "too many arguments": ('{"if":[{"!":[1,2]},"on"]}', 'flag.targeting.if[0]["!"]', "has 2 arguments; it must have 1"),
    "an if of nothing": ('{"if":[]}', "flag.targeting.if", "if has 0 arguments; it must have at least 1"),
    "a negative weight": ('{"fractional":[["on",-1],["off",1]]}', "flag.targeting.fractional[0][1]", "weight is -1"),
    "a weight as text": (
        '{"fractional":[["on",1],["off","50"]]}',
        "flag.targeting.fractional[1][1]",
        'the weight is "50"',
    ),
    "a weight of null": ('{"fractional":[["on",null]]}', "flag.targeting.fractional[0][1]", "the weight is null"),
    "a weight of true": ('{"fractional":[["on",true]]}', "flag.targeting.fractional[0][1]", "the weight is true"),
    "half a weight": ('{"fractional":[["on",0.5]]}', "flag.targeting.fractional[0][1]", "the weight is 0.5"),
    "weights beyond int32": (
        '{"fractional":[["on",2147483647],["off",1]]}',
        "flag.targeting.fractional",
        "exceeds 2147483647",
    ),
    "an endless weight": ('{"fractional":[["on",1e300]]}', "flag.targeting.fractional", "exceeds 2147483647"),
    "a share of three": ('{"fractional":[["on",1,2]]}', "flag.targeting.fractional[0]", 'the share is ["on",1,2]'),
    "an empty share": ('{"fractional":[[]]}', "flag.targeting.fractional[0]", "the share is []"),
    "a split of nothing": ('{"fractional":["on"]}', "flag.targeting.fractional", "has no variants"),
    "an unresolved $ref": ('{"if":[{"$ref":"gone"},"on"]}', 'flag.targeting.if[0]["$ref"]', 'unknown evaluator "gone"'),
    "a $ref to a list": ('{"$ref":["a"]}', 'flag.targeting["$ref"]', 'unknown evaluator ["a"]'),
    "an unknown comparison of versions": (
        '{"sem_ver":["1","=>","2"]}',
        "flag.targeting.sem_ver[1]",
        "= != < <= > >= ^ ~",
    ),
    "a comparison that is no text": (
        '{"sem_ver":["1",null,"2"]}',
        "flag.targeting.sem_ver[1]",
        "null is not a version comparison",
    ),
    "no version": (
        '{"sem_ver":[{"var":"x"},">","x.y"]}',
        "flag.targeting.sem_ver[2]",
        '"x.y" is not a semantic version',
    ),
    "a variant that is not there": ('{"if":[true,"blue"]}', "flag.targeting.if[1]", "the flag's variants: off, on"),
    "a split to one that is not there": (
        '{"fractional":[["blue"]]}',
        "flag.targeting.fractional[0][0]",
        "the flag's variants: off, on",
    ),
}


_NOTHING = (None, None)  # no result, and the flag has no default variant
_WRONG_NAME = (None, ErrorCode.GENERAL)
ODD: dict[str, tuple[str | None, ErrorCode | None]] = {
    **dict.fromkeys(("a list for a rule", "an object that is no rule", "a variant that is not there"), _WRONG_NAME),
    **dict.fromkeys(
        ("a split to one that is not there", "a number beyond int64", "such a number in a list"), _WRONG_NAME
    ),
    **dict.fromkeys(("a weight as text", "a weight of true", "half a weight", "weights beyond int32"), _NOTHING),
    **dict.fromkeys(("an endless weight", "an empty share", "a split of nothing", "no version"), _NOTHING),
    **dict.fromkeys(("an unknown comparison of versions", "a comparison that is no text"), _NOTHING),
    "a weight of null": ("on", None),  # which counts as 1
    "a share of three": ("on", None),
    "a negative weight": ("off", None),
    "a text for a rule": ("on", None),
}
"""What a rule that flagd serves answers where it is stored: a variant or an error. All others are PARSE_ERROR."""


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_is_refused_where_it_is_wrong(name: str) -> None:
    targeting, place, why = WRONG[name]
    message = refusal(flag(targeting))
    assert place in message
    assert why in message
    assert len(message) < 3_000


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_evaluator_is_refused_by_its_name(name: str) -> None:
    targeting, place, why = WRONG[name]
    if name in ("a list for a rule", "a text for a rule"):
        return  # An evaluator may be a part of a rule, for example a list of countries.
    message = refusal(flag('{"$ref":"e"}', {"e": targeting}))
    if "at most 262144" not in why:
        assert "flag.evaluators[e]" in message
    assert why in message
    assert place.removeprefix("flag.targeting").replace("9999", "9998") in message


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_that_is_stored_already_is_an_error_of_its_flag_alone(name: str) -> None:
    targeting, _, _ = WRONG[name]
    stored = flag(targeting, variants={"on": True, "off": False})
    outcomes: list[Outcome] = []

    def evaluate() -> None:
        prepared = prepare(stored)
        outcomes.append(prepared.fixed or prepared.evaluate({"targetingKey": "a"}, 1.0))

    assert cost(evaluate, 1) < WHOLE
    [outcome] = outcomes
    reads_as_flagd = ODD.get(name, (None, ErrorCode.PARSE_ERROR))
    assert (outcome.variant, outcome.error_code) == reads_as_flagd


def test_circular_evaluators_are_refused_with_the_circle() -> None:
    evaluators = {"a": '{"!":[{"$ref":"b"}]}', "b": '{"!":[{"$ref":"c"}]}', "c": '{"!":[{"$ref":"a"}]}'}
    message = refusal(flag('{"if":[{"$ref":"a"},"on"]}', evaluators))
    assert "refers to itself: a -> b -> c -> a" in message


def test_up_to_twenty_wrong_parts_are_reported() -> None:
    message = refusal(flag(json.dumps({"and": [{"foo": 1}, {"==": [1]}, {"bar": 2}]})))
    assert all(place in message for place in ("and[0].foo", 'and[1]["=="]', "and[2].bar"))
    assert refusal(flag(json.dumps({"and": [{"foo": 1}] * 10_000}))).count("unknown operator") == 20
    assert refusal(flag(json.dumps({"and": [{"!": [1]}] * 15_000}))).count("10000 parts") == 1


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"variants": {"on": True, "off": "no"}}, "flag.variants[off]"),
        ({"variants": {"on": [1]}}, "flag.variants[on]"),
        ({"variants": {"on": None}}, "flag.variants[on]"),
        ({"variants": {"on": float("nan")}}, "flag.variants[on]"),
        ({"variants": {"on": 2**63}}, "flag.variants[on]"),
        ({"variants": {"on": 1}, "default_variant": "off"}, "flag.default_variant"),
        ({"variants": {}, "default_variant": "blue"}, "flag.default_variant"),
        ({"variants": {"": 1}}, "flag.variants[]"),
        ({"metadata": {"a": None}}, "flag.metadata[a]"),
        ({"evaluators": {f"e{i}": "1" for i in range(101)}}, "flag.evaluators"),
    ],
)
def test_a_wrong_definition_is_refused_by_field(fields: dict[str, Any], wanted: str) -> None:
    assert wanted in refusal(flag(**fields))


def test_a_key_that_is_no_text_breaks_only_its_own_flag() -> None:
    broken = Flag(key="a\ud800", status=Status.ENABLED, bucketing=3, targeting='{"fractional":[["on",1]]}')
    assert prepare(broken).fixed is not None
    assert prepare(broken).fixed.error_code is ErrorCode.PARSE_ERROR


# ---- hostile rules: right in form, made to be slow or big


def var(name: Any) -> dict[str, Any]:
    return {"var": name}


def zeros(count: int) -> list[int]:
    return [0] * count


def doubled(times: int, leaf: Any) -> dict[str, Any]:
    """Return a rule whose result nests lists: each iteration doubles it, in little memory but with 2^times elements."""
    return {"reduce": [zeros(times), [ACC, ACC], leaf]}


ACC = var("accumulator")
LONG = "a" * 60_000
MANY = [str(number) for number in range(30_000)]
OBJECT = {str(number): [number] * 3 for number in range(2_500)}
WIDE = "\U0001f600"
NO_NUMBER = "1" * 255 + "x"
SLOW_NUMBER = (
    "2.225073858507201136057409796709131975934819546351645648023426109724822222021076945516529523908135087914149158913039"
    "6211068700864386945946455273e-308"
)
"""Almost halfway between two doubles, so that all of its digits count."""
FRACTION = 1.2345678901234567e-290
PATH = "y" + ".0" * 29_000
CHAIN = {**{f"e{i}": [{"$ref": f"e{i + 1}"}] * 2 for i in range(2, 12)}, "e12": var("x")}

# Rule, context, evaluators, each within its limit of size.
HOSTILE: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "loops in loops": ({"map": [var("l"), {"map": [zeros(300), {"map": [zeros(300), 1]}]}]}, {"l": zeros(20_000)}, {}),
    "loops in loops, within the steps": ({"map": [zeros(150), {"map": [zeros(150), {"cat": [var("")]}]}]}, {}, {}),
    "a filter of each for each": (
        {"filter": [var("l"), {"some": [zeros(30_000), {"==": [var(""), 1]}]}]},
        {"l": zeros(20_000)},
        {},
    ),
    "versions in a loop": (
        {"map": [var("l"), {"sem_ver": [var(""), ">", "1.0.0"]}]},
        {"l": [f"1.{i}.0" for i in range(6_000)]},
        {},
    ),
    "long versions in a loop": (
        {"map": [zeros(14_000), {"sem_ver": [{"cat": ["1.2.3-", ".a1" * 80, var("")]}, ">", "1.0.0"]}]},
        {},
        {},
    ),
    "a version of 60 kB": ({"sem_ver": [var("x"), "<", "1.0.0"]}, {"x": "1." * 30_000}, {}),
    "a text doubled": ({"reduce": [zeros(20_000), {"cat": [ACC, ACC]}, "x"]}, {}, {}),
    "a text that grows": ({"reduce": [zeros(20_000), {"cat": [ACC, "0123456789"]}, "x"]}, {}, {}),
    "copies of a text": ([{"cat": [var("x"), "y"]}] * 3_300, {"x": LONG}, {}),
    "pieces of a text": ([{"substr": [var("x"), 1]}] * 3_300, {"x": LONG}, {}),
    "copies of a constant": ([{"cat": [{"$ref": "b"}, "y"]}] * 2_400, {}, {"b": LONG}),
    "a list doubled": ({"reduce": [zeros(20_000), {"merge": [ACC, ACC, 1]}, []]}, {}, {}),
    "a list that grows": ({"reduce": [zeros(20_000), {"merge": [ACC, 1]}, []]}, {}, {}),
    "whole numbers that grow": ({"reduce": [zeros(20_000), {"*": [ACC, 2**62]}, 1]}, {}, {}),
    "remainders of big numbers": ({"map": [zeros(3_000), {"%": [{"*": [var(""), *[2**62] * 16]}, 7]}]}, {}, {}),
    "the context again and again": ([var("")] * 4_900, {f"k{i}": i for i in range(4_000)}, {}),
    "the context in a loop": ({"reduce": [zeros(9_000), var(""), 0]}, {f"k{i}": i for i in range(4_000)}, {}),
    "a path of 29,000 steps": ([var(var("x"))] * 3_000, {"x": PATH, "y": "a"}, {}),
    "a path of 120 steps in a loop": ({"map": [["a"] * 25_000, var("0" + ".0" * 120)]}, {}, {}),
    "a computed path of 120 steps in a loop": ({"map": [["a"] * 20_000, var({"cat": ["0", ".0" * 120]})]}, {}, {}),
    "equality of nested lists": ({"===": [doubled(40, 0), doubled(40, 0)]}, {}, {}),
    "equality of endlessly deep lists": ({"===": [{"reduce": [zeros(20_000), [ACC], 0]}] * 2}, {}, {}),
    "text of nested lists": ({"cat": [doubled(40, 0)]}, {}, {}),
    "text of an endlessly deep list": ({"cat": [{"reduce": [zeros(20_000), [ACC], 0]}]}, {}, {}),
    "number of an endlessly deep list": ({"+": [{"reduce": [zeros(20_000), [ACC], 0]}]}, {}, {}),
    "a nested list as a path": (var([doubled(40, "a")]), {}, {}),
    "thousands of names that may be missing, in a loop": (
        {"map": [zeros(9_000), {"missing": [[f"n{number}" for number in range(9_000)]]}]},
        {},
        {},
    ),
    "nested lists as missing": ({"missing": [doubled(40, "a")]}, {}, {}),
    "a nested list as a variant": ({"fractional": [["on", 1], [doubled(40, 0), 1]]}, {"targetingKey": "a"}, {}),
    "a nested list as the result": (doubled(24, 0), {}, {}),
    "an endlessly deep list as the result": ({"reduce": [zeros(20_000), [ACC], 0]}, {}, {}),
    "splits of a huge object": ([{"fractional": [var("k"), ["a", 1]]}] * 900, {"k": OBJECT}, {}),
    "splits of a long targeting key": (
        [{"fractional": [["a", 1], ["b", 1]]}] * 1_900,
        {"targetingKey": "ä" * 30_000},
        {},
    ),
    "splits of a long targeting key in a loop": (
        {"map": [zeros(15_000), {"fractional": [["a", 1], ["b", 1]]}]},
        {"targetingKey": "ä" * 30_000},
        {},
    ),
    "splits in a loop": (
        {"map": [zeros(10_000), {"fractional": [["a", 1], ["b", 1]]}]},
        {"targetingKey": "ä" * 250},
        {},
    ),
    "splits with computed weights in a loop": (
        {"map": [zeros(9_000), {"fractional": [var(""), ["a", 1], ["b", {"+": [1]}]]}]},
        {},
        {},
    ),
    "membership of 30,000": (
        {"or": [*[{"in": [var("x"), {"$ref": "b"}]}] * 900, "on"]},
        {"x": "z"},
        {"b": MANY[:25_000]},
    ),
    "membership of 10,000 in a loop": ({"map": [zeros(9_000), {"in": [var(""), list(range(10_000))]}]}, {}, {}),
    "membership among objects": ({"map": [zeros(9_000), {"in": [var(""), [{"a": 1, "b": 2}] * 3_000]}]}, {}, {}),
    "equality with a huge list": (
        {"or": [*[{"==": [var("x"), {"$ref": "b"}]}] * 2_400, "on"]},
        {"x": "z"},
        {"b": zeros(50_000)},
    ),
    "equality of constants with a huge list": (
        {"or": [*[{"==": ["q", {"$ref": "b"}]}] * 2_400, "on"]},
        {},
        {"b": zeros(50_000)},
    ),
    "a text within a text": ({"or": [{"in": ["a" * 20 + "b", var("x")]}] * 3_300}, {"x": LONG}, {}),
    "a long text within a text": (
        {"or": [{"in": [var("n"), var("x")]}] * 2_400},
        {"x": "a" * 40_000, "n": "a" * 20_000 + "b"},
        {},
    ),
    "the worst text to look for": (
        {"or": [{"in": [var("n"), var("x")]}] * 3_300},
        {"x": "a" * 2_499, "n": "a" * 1_249 + "b" + "a" * 10},
        {},
    ),
    "the worst constant to look for": ({"or": [{"in": ["a" * 97 + "ba", var("x")]}] * 1_900}, {"x": "a" * 29_999}, {}),
    "the worst constants to look for": (
        {"or": [{"in": [{"$ref": "n"}, {"$ref": "x"}]}] * 1_900},
        {},
        {"x": "a" * 2_499, "n": "a" * 1_249 + "b" + "a" * 10},
    ),
    "the worst text in a loop": (
        {"map": [zeros(9_000), {"in": [var("current"), {"cat": ["a" * 255]}]}]},
        {},
        {},
    ),
    "short texts in a loop": (
        {"map": [["a" * 140 + "b" + "a"] * 1_600, {"in": [var(""), {"cat": ["a" * 255, var("x")]}]}]},
        {},
        {},
    ),
    "numbers of long texts": ([{"+": [var("x")]}] * 3_300, {"x": "0." + "123456789" * 6_000}, {}),
    "numbers of texts in a loop": (
        {"map": [zeros(4_000), {"+": [{"cat": ["0.", var(""), "1234567890" * 25]}, 1]}]},
        {},
        {},
    ),
    "digits that are no number": ([{"-": [var("x"), var("x")]}] * 1_100, {"x": NO_NUMBER}, {}),
    "digits that are no number, a constant in a loop": (
        {"map": [var("l"), {"==": [var(""), NO_NUMBER]}]},
        {"l": [1.5] * 4_900},
        {},
    ),
    "the slowest number": ([{"max": [var("x")] * 4}] * 700, {"x": SLOW_NUMBER}, {}),
    "the slowest number, a constant and objects": (
        {"map": [var("l"), {"==": [var(""), SLOW_NUMBER]}]},
        {"l": [{}] * 4_900},
        {},
    ),
    "the slowest number in a loop": ({"map": [var("l"), {"<": [var(""), 1]}]}, {"l": [SLOW_NUMBER] * 400}, {}),
    "positions that are slow numbers": ([{"substr": ["abc", var("x"), var("x")]}] * 1_100, {"x": SLOW_NUMBER}, {}),
    "fractions as texts": ([{"cat": [var("n")] * 10}] * 390, {"n": FRACTION}, {}),
    "fractions as texts in a loop": ({"map": [var("l"), {"cat": [var("")]}]}, {"l": [FRACTION] * 2_500}, {}),
    "lists of fractions as texts": ([{"cat": [var("l")]}] * 180, {"l": [FRACTION] * 2_500}, {}),
    "lists of fractions in a text": ([{"in": [var("l"), "abc"]}] * 1_200, {"l": [FRACTION] * 900}, {}),
    "lists of fractions as paths": ([var(var("l"))] * 1_400, {"l": [FRACTION] * 900}, {}),
    "fractions that may be missing": ([{"missing": [var("n")] * 4}] * 700, {"n": FRACTION}, {}),
    "wide texts built": ([{"cat": ["x", var("x")]}] * 2_400, {"x": "a" * 20_000 + WIDE * 5_000}, {}),
    "pieces of wide texts": ([{"substr": [var("x"), 1]}] * 2_400, {"x": WIDE * 15_000}, {}),
    "a list that gets deeper, as a number each time": (
        {"reduce": [zeros(5_000), {"if": [{"+": [ACC]}, [ACC], [ACC]]}, 0]},
        {},
        {},
    ),
    "versions that all differ": (
        {"map": [var("l"), {"sem_ver": [var(""), ">", "1.0.0"]}]},
        {"l": [f"1.2.{i}-{'a' * 240}_" for i in range(240)]},
        {},
    ),
    "computed weights": (
        [{"fractional": [var("x"), ["a", var("n")], ["b", 1]]}] * 800,
        {"x": WIDE * 128, "n": 3},
        {},
    ),
    "evaluators in evaluators": ({"==": [{"$ref": "e2"}, 1]}, {}, CHAIN),
    "deep, but not too deep": (json.loads(nested("!", 99, '{"var":"x"}')), {}, {}),
    "loops 49 deep": (json.loads('{"map":[[1],' * 49 + '{"var":""}' + "]}" * 49), {}, {}),
    "cuts beyond all bounds": ({"substr": [var("x"), -1e300, 1e308]}, {"x": "abc"}, {}),
    "the least and most of no number": ({"max": [{"+": ["a"]}, 1, {"min": [{"+": ["b"]}, var("x")]}]}, {"x": 3}, {}),
    "thousands of conditions": ({"or": [{"==": [var("a"), "b"]}] * 3_300}, {}, {}),
    "thousands of fields": ([var(f"f{i}") for i in range(9_900)], {f"f{i}": i for i in range(4_000)}, {}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_rule_ends_soon(name: str) -> None:
    rule, context, evaluators = HOSTILE[name]
    compiled = compile_rule(rule, "k", evaluators)

    def evaluate() -> None:
        try:
            compiled.evaluate(context, 1.0)
        except RuleError as error:
            assert len(str(error)) < 200  # noqa: PT017  it may succeed or fail, but not with a long message

    assert cost(evaluate, enough=EVALUATION) < EVALUATION
    tracemalloc.start()
    evaluate()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MEMORY_BYTES


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_rule_is_written_or_refused_for_its_cost_and_can_be_explained(name: str) -> None:
    rule, context, evaluators = HOSTILE[name]
    wrapped = rule if isinstance(rule, dict) else {"merge": [rule]}
    texts = {key: json.dumps(evaluator) for key, evaluator in evaluators.items()}
    hostile = flag(json.dumps(wrapped), texts, variants={"on": True, "off": False})
    assert len(json.dumps(rule)) + sum(map(len, texts.values())) < MAX_RULE_BYTES
    assert len(json.dumps(context, ensure_ascii=False, separators=(",", ":")).encode()) < MAX_CONTEXT_BYTES
    found: list[tuple[Outcome, Explanation]] = []
    refused: list[str] = []

    def written_and_explained() -> None:
        try:
            validated(hostile)
        except InvalidRequest as error:
            refused.append(str(error))
        outcome, explanation = explain(hostile, context, 1.0)
        found.append((outcome, explanation_to_message(explanation)))

    assert cost(written_and_explained, 1) < WHOLE
    [(outcome, message)] = found
    problem = too_expensive(wrapped, evaluators)
    if problem is not None:
        [text] = refused
        assert problem.message in text
    assert len(message.steps) <= MAX_STEPS
    assert message.ByteSize() < 2_000_000
    assert len(outcome.message) < 500


def test_an_evaluator_with_a_path_of_thousands_of_steps_counts_each_time() -> None:
    with pytest.raises(WrongRule, match="10000 parts"):
        compile_rule([{"$ref": "p"}] * 3_000, "k", {"p": var(PATH)})


@pytest.mark.parametrize("depth", [30, 99])
def test_evaluators_that_double_each_other_are_refused(depth: int) -> None:
    evaluators: dict[str, Any] = {f"e{i}": [{"$ref": f"e{i + 1}"}] * 2 for i in range(depth)}
    evaluators[f"e{depth}"] = "x"

    def refuse() -> None:
        with pytest.raises(WrongRule, match=r"10000 parts|100 deep"):
            compile_rule({"==": [{"$ref": "e0"}, 1]}, "k", evaluators)

    assert cost(refuse, 1) < WHOLE
    assert "parts" in refusal(flag('{"$ref":"e0"}', {name: json.dumps(rule) for name, rule in evaluators.items()}))


def test_constants_are_not_multiplied_when_a_rule_is_compiled() -> None:
    rule, _, evaluators = HOSTILE["copies of a constant"]
    tracemalloc.start()
    kept = compile_rule(rule, "k", evaluators)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept
    assert size < 10_000_000


def test_evaluators_one_in_the_other_are_no_deeper_than_a_rule_may_be() -> None:
    deep = {f"e{i}": json.loads(nested("!", 30, json.dumps({"$ref": f"e{i + 1}"}))) for i in range(5)}
    deep["e5"] = True
    for order in (deep, dict(reversed(deep.items()))):
        with pytest.raises(WrongRule, match="100 deep"):
            compile_rule({"and": [*({"$ref": name} for name in order)]}, "k", order)
