"""The evaluation of a definition, in flagd's order, and its explanation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from flagsvc.core.evaluation import (
    DISABLED,
    ErrorCode,
    Explanation,
    Outcome,
    Reason,
    ValueType,
    check_type,
    explain,
    prepare,
    variant_name,
)
from flagsvc.core.model import Flag, Status

NOW = 1_700_000_000.0
MATCH = {"if": [{"==": [{"var": "plan"}, "pro"]}, "on"]}
COLOURS = {"red": "#f00", "blue": "#00f"}


def flag(targeting: Any = None, status: Status = Status.ENABLED, **fields: Any) -> Flag:
    text = targeting if targeting is None or isinstance(targeting, str) else json.dumps(targeting)
    return Flag(key="k", status=status, targeting=text, **fields)


def outcome(of: Flag, context: Mapping[str, Any] | None = None) -> Outcome:
    prepared = prepare(of)
    return prepared.fixed or prepared.evaluate(context or {}, NOW)


def explained(of: Flag, context: Mapping[str, Any] | None = None) -> Explanation:
    found, explanation = explain(of, context or {}, NOW)
    assert found == outcome(of, context)
    return explanation


# ---- the order


@pytest.mark.parametrize("status", [Status.DISABLED, Status.DEPRECATED])
@pytest.mark.parametrize("targeting", [None, MATCH, "{"])
def test_a_flag_that_is_off_has_no_value_whatever_else_it_holds(status: Status, targeting: Any) -> None:
    off = flag(targeting, status, variants=COLOURS, default_variant="no-such")
    assert outcome(off, {"plan": "pro"}) is DISABLED
    assert check_type(outcome(off), ValueType.INTEGER) is DISABLED, "without a value there is no type mismatch"


@pytest.mark.parametrize("targeting", [None, "", "{}", " {} "])
def test_without_targeting_the_default_is_static(targeting: str | None) -> None:
    assert outcome(flag(targeting)) == Outcome(Reason.STATIC, "on", True)
    assert outcome(flag(targeting, variants=COLOURS, default_variant="red")) == Outcome(Reason.STATIC, "red", "#f00")
    assert prepare(flag(targeting)).fixed is not None, "the outcome is the same for every context"


def test_a_rule_of_null_never_matches() -> None:
    assert outcome(flag("null")) == Outcome(Reason.DEFAULT, "on", True)


def test_a_variant_of_null_is_of_no_type() -> None:
    values = {"on": True, "nothing": None}
    for odd in (flag('"nothing"', variants=values), flag(None, variants=values, default_variant="nothing")):
        assert outcome(odd).error_code is ErrorCode.GENERAL
        assert check_type(outcome(odd), ValueType.BOOLEAN).error_code is ErrorCode.TYPE_MISMATCH


def test_a_rule_that_is_no_object_is_its_own_result() -> None:
    colours = {"red": 1, "true": 2, "1": 3}
    names = {
        '"red"': "red",
        "true": "true",
        "1": "1",
        "1.0": "1",
        '"blue"': None,
        "[]": None,
        '["red"]': None,
        '""': None,
    }
    for text, name in names.items():
        found = outcome(flag(text, variants=colours, default_variant="red"))
        wanted = (None, ErrorCode.GENERAL) if name is None else (name, None)
        assert (found.variant, found.error_code) == wanted, text


def test_targeting_that_names_a_variant_is_a_match() -> None:
    assert outcome(flag(MATCH), {"plan": "pro"}) == Outcome(Reason.TARGETING_MATCH, "on", True)


def test_targeting_that_gives_null_is_the_default() -> None:
    assert outcome(flag(MATCH), {"plan": "free"}) == Outcome(Reason.DEFAULT, "on", True)
    named = flag({"if": [False, "red"]}, variants=COLOURS, default_variant="blue")
    assert outcome(named) == Outcome(Reason.DEFAULT, "blue", "#00f")


@pytest.mark.parametrize("default", [None, ""])
def test_without_a_default_variant_the_callers_own_default_stands(default: str | None) -> None:
    assert outcome(flag(variants=COLOURS, default_variant=default)) == Outcome(Reason.DEFAULT)
    assert outcome(flag({"if": [False, "red"]}, variants=COLOURS, default_variant=default)) == Outcome(Reason.DEFAULT)


def test_a_default_that_is_none_of_the_variants_is_an_error_only_where_it_is_needed() -> None:
    wrong = flag({"if": [{"var": "x"}, "red"]}, variants=COLOURS, default_variant="green")
    assert outcome(wrong, {"x": True}).variant == "red"
    assert outcome(wrong).error_code is ErrorCode.GENERAL
    assert "'green'" in outcome(wrong).message


@pytest.mark.parametrize("chosen", ["green", True, 7, [1], {"a": 1, "b": 2}, 0.5])
def test_targeting_that_names_no_variant_is_an_error(chosen: Any) -> None:
    found = outcome(flag({"if": [True, chosen]}, variants=COLOURS, default_variant="red"))
    assert (found.reason, found.error_code, found.value) == (Reason.ERROR, ErrorCode.GENERAL, None)
    assert "not one of the flag's variants" in found.message


def test_a_rule_without_a_result_is_an_error() -> None:
    found = outcome(flag({"if": [{"cat": ["x" * 40_000] * 2}, "on"]}))
    assert found.error_code is ErrorCode.GENERAL
    assert "more than 65536 characters" in found.message


@pytest.mark.parametrize("divisor", [0, {"var": "gone"}, -0.0])
def test_an_infinite_number_names_no_variant(divisor: Any) -> None:
    variants = {"inf": "a", "nan": "b", "NaN": "c", "Infinity": "d", "-inf": "e"}
    for dividend in (1, 0, -1):
        found = outcome(flag({"/": [dividend, divisor]}, variants=variants))
        assert found.error_code is ErrorCode.GENERAL


def test_a_rule_that_cannot_be_understood_is_an_error_of_its_flag_alone_for_who_reaches_it() -> None:
    good, bad = prepare(flag(MATCH)), prepare(flag({"if": [{"var": "plan"}, {"no_such": []}, None]}))
    assert good.evaluate({"plan": "pro"}, NOW).variant == "on"
    found = bad.evaluate({"plan": "pro"}, NOW)
    assert found.error_code is ErrorCode.PARSE_ERROR
    assert "$.if[1].no_such" in found.message
    assert "$.if[1].no_such" in bad.problem
    assert bad.evaluate({}, NOW) == Outcome(Reason.DEFAULT, "on", True)
    _, explanation = explain(flag({"if": [{"var": "plan"}, {"no_such": []}, None]}), {"plan": "pro"}, NOW)
    assert "$.if[1].no_such" in explanation.summary


def test_an_evaluator_that_cannot_be_understood_is_named() -> None:
    found = outcome(flag({"if": [{"$ref": "e"}, "on"]}, evaluators={"e": '{"and":[{"no_such":1}]}'}))
    assert found.error_code is ErrorCode.PARSE_ERROR
    assert "evaluator 'e', $.and[0].no_such" in found.message


def test_a_stored_document_with_a_problem_is_an_error_even_when_it_is_off() -> None:
    found = outcome(flag(status=Status.DISABLED, problem="status is 'MAYBE'"))
    assert found == Outcome(Reason.ERROR, error_code=ErrorCode.PARSE_ERROR, message="status is 'MAYBE'")


# ---- BETA


def test_a_beta_flag_is_on_only_where_targeting_matches() -> None:
    beta = flag(MATCH, Status.BETA, default_variant="off")
    assert outcome(beta, {"plan": "pro"}) == Outcome(Reason.TARGETING_MATCH, "on", True)
    assert outcome(beta, {"plan": "free"}) is DISABLED
    assert outcome(beta) is DISABLED


def test_a_beta_flag_without_targeting_is_on_for_nobody() -> None:
    assert outcome(flag(status=Status.BETA)) is DISABLED


def test_a_beta_flag_with_a_wrong_rule_is_an_error() -> None:
    assert outcome(flag("{", Status.BETA)).error_code is ErrorCode.PARSE_ERROR
    assert outcome(flag({"if": [True, "blue"]}, Status.BETA)).error_code is ErrorCode.GENERAL


# ---- results and variant names


@pytest.mark.parametrize(
    ("chosen", "name"),
    [
        ("on", "on"),
        (True, "true"),
        (False, "false"),
        (1, "1"),
        (1.0, "1"),
        (-0.0, "0"),
        (0.5, "0.5"),
        (-3, "-3"),
        (1e300, str(int(1e300))),
        ([1], None),
        ({}, None),
    ],
)
def test_a_result_names_a_variant(chosen: Any, name: str | None) -> None:
    assert variant_name(chosen) == name


def test_a_whole_float_names_the_variant_of_the_whole_number() -> None:
    tiers = flag({"+": [{"var": "tier"}]}, variants={"1": "one", "2": "two"})
    assert outcome(tiers, {"tier": 1.0}).value == "one"
    assert outcome(tiers, {"tier": 2}).value == "two"


def test_booleans_name_the_variants_true_and_false() -> None:
    both = flag({"==": [{"var": "x"}, 1]}, variants={"true": "yes", "false": "no"})
    assert [outcome(both, {"x": x}).value for x in (1, 2)] == ["yes", "no"]


# ---- types


VALUES: dict[ValueType, Any] = {
    ValueType.BOOLEAN: True,
    ValueType.STRING: "x",
    ValueType.INTEGER: 1,
    ValueType.FLOAT: 1.5,
    ValueType.OBJECT: {"a": 1},
}


@pytest.mark.parametrize("wanted", ValueType)
@pytest.mark.parametrize("kind", ValueType)
def test_a_value_of_another_type_is_a_mismatch_but_a_whole_number_serves_as_a_float(
    wanted: ValueType, kind: ValueType
) -> None:
    found = check_type(Outcome(Reason.STATIC, "v", VALUES[kind]), wanted)
    if wanted is kind or (wanted is ValueType.FLOAT and kind is ValueType.INTEGER):
        assert found.value == VALUES[kind]
        assert type(found.value) is (float if wanted is ValueType.FLOAT else type(VALUES[kind]))
    else:
        assert (found.reason, found.error_code, found.value) == (Reason.ERROR, ErrorCode.TYPE_MISMATCH, None)
        assert f"of type {kind}, not {wanted}" in found.message


@pytest.mark.parametrize(("value", "integer"), [(10.0, 10), (-0.0, 0), (-(2.0**63), -(2**63)), (1e15, 10**15)])
def test_a_whole_float_is_an_integer_too(value: float, integer: int) -> None:
    found = check_type(Outcome(Reason.STATIC, "v", value), ValueType.INTEGER)
    assert (found.value, type(found.value), found.variant) == (integer, int, "v")


@pytest.mark.parametrize("value", [10.5, 2.0**63, 1e21, math.inf, math.nan])
def test_a_fraction_or_more_than_64_bits_is_no_integer(value: float) -> None:
    assert check_type(Outcome(Reason.STATIC, "v", value), ValueType.INTEGER).error_code is ErrorCode.TYPE_MISMATCH


def test_any_type_serves_who_asks_for_none() -> None:
    for value in VALUES.values():
        assert check_type(Outcome(Reason.STATIC, "v", value), None).value is value


def test_an_error_stays_what_it_is_whatever_type_is_wanted() -> None:
    error = outcome(flag("{"))
    assert check_type(error, ValueType.STRING) is error


# ---- explanations


def test_an_explanation_has_the_fields_that_were_read_and_null_for_those_not_there() -> None:
    rule = {"if": [{"and": [{"==": [{"var": "plan"}, "pro"]}, {"var": "user.staff"}]}, "on", {"var": "never"}]}
    explanation = explained(flag(rule), {"plan": "pro", "user": {"staff": True}, "other": 1})
    assert dict(explanation.read) == {"plan": "pro", "user": {"staff": True}}
    assert dict(explained(flag(rule)).read) == {"plan": None, "never": None}


def test_a_split_by_a_field_does_not_read_the_targeting_key() -> None:
    split = flag({"fractional": [{"var": "email"}, ["on", 1]]})
    assert dict(explained(split, {"email": "a", "targetingKey": "u"}).read) == {"email": "a"}
    assert dict(explained(flag({"fractional": [["on", 1]]}), {"targetingKey": "u"}).read) == {"targetingKey": "u"}


@pytest.mark.parametrize(
    ("of", "context", "summary"),
    [
        (flag(MATCH), {"plan": "pro"}, "The targeting rule chose variant 'on'"),
        (flag(MATCH), {}, "The targeting rule did not match: the default variant 'on'"),
        (
            flag({"if": [False, "red"]}, variants=COLOURS),
            {},
            "The targeting rule did not match: no default variant",
        ),
        (flag(MATCH, Status.BETA), {}, "The targeting rule did not match and the flag is BETA: as if disabled"),
        (flag(status=Status.BETA), {}, "The flag is BETA and has no targeting: disabled for everybody"),
        (flag(), {}, "The flag has no targeting: variant 'on' for everybody"),
        (flag(variants=COLOURS), {}, "The flag has no targeting: no default variant for everybody"),
        (flag(MATCH, Status.DISABLED), {}, "The flag is DISABLED: no value, the caller's own default applies"),
        (flag(status=Status.DEPRECATED), {}, "The flag is DEPRECATED: no value, the caller's own default applies"),
        (
            flag({"if": [{"cat": ["x" * 40_000] * 2}, "on"]}),
            {},
            "The targeting rule has no result for this context: a string of more than 65536 characters",
        ),
        (
            flag({"if": [True, "blue"]}),
            {},
            "The targeting rule chose 'blue', which is not one of the flag's variants",
        ),
    ],
)
def test_an_explanation_says_in_one_sentence_how_it_came_about(of: Flag, context: Any, summary: str) -> None:
    assert explained(of, context).summary == summary


def test_an_explanation_takes_the_bucketing_of_the_definition() -> None:
    split = flag({"fractional": [["on", 1], ["off", 1]]})
    notes = [explained(replace(split, bucketing=v), {"targetingKey": "u"}).steps[0].note for v in (2, 3)]
    assert notes[0] != notes[1]
