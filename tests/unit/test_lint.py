"""Notes on rules that are valid, and most likely not what their author meant."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flagsvc.core.flagd.reading import read
from flagsvc.core.lint import lint
from flagsvc.core.model import Flag
from flagsvc.core.targeting.lint import MAX_NOTES

GOLD = {"==": [{"var": "tier"}, "gold"]}
TIME = {"var": "$flagd.timestamp"}


def notes(
    rule: Any, *, variants: dict[str, Any] | None = None, default: str | None = None, **evaluators: Any
) -> list[str]:
    flag = Flag(
        key="k",
        variants=variants or {},
        default_variant=default,
        targeting=json.dumps(rule),
        evaluators={name: json.dumps(evaluator) for name, evaluator in evaluators.items()},
    )
    return [str(note) for note in lint(flag)]


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ({"if": ["gold", "on", "off"]}, '$.if[0]: the condition "gold" is constant: always true'),
        ({"if": [{}, "on", "off"]}, "$.if[0]: the condition {} is constant: always false"),
        ({"if": [GOLD, "on", ["a"], "off"]}, '$.if[2]: the condition ["a"] is constant: always true'),
        ({"if": [{"and": ["beta", GOLD]}, "on"]}, '$.if[0].and[0]: the condition "beta" is constant: always true'),
        ({"if": [{"!": "beta"}, "on"]}, '$.if[0]["!"][0]: the condition "beta" is constant: always true'),
        (
            {"if": [{"some": [{"var": "l"}, "x"]}, "on"]},
            '$.if[0].some[1]: the condition "x" is constant: always true',
        ),
        ({"if": [GOLD, "on", "on"]}, '$.if: every branch has the same result, "on"'),
        ({"if": [GOLD, "on", {"!": [GOLD]}, "on", "on"]}, '$.if: every branch has the same result, "on"'),
        (
            {"if": [{">=": [TIME, "2026-01-01"]}, "on"]},
            '$.if[0][">="]: $flagd.timestamp is a number, seconds since 1970: it is never >= the text "2026-01-01"',
        ),
        (
            {"if": [{"===": [TIME, "1700000000"]}, "on"]},
            '$.if[0]["==="]: $flagd.timestamp is a number, seconds since 1970: it is never === the text "1700000000"',
        ),
        ({"fractional": [["off", 100], ["on", 0]]}, '$.fractional[0]: everybody is in one bucket: "off"'),
        ({"fractional": [{"var": "email"}, ["on"]]}, '$.fractional[1]: everybody is in one bucket: "on"'),
        ({"if": [{"$ref": "odd"}, "on"]}, "evaluator 'odd', $.or[0]: the condition \"x\" is constant: always true"),
    ],
)
def test_what_is_most_likely_not_meant_is_noted_with_its_place(rule: Any, wanted: str) -> None:
    assert notes(rule, default="off", odd={"or": ["x", GOLD]}) == [wanted]


@pytest.mark.parametrize(
    "rule",
    [
        {"if": [GOLD, "on", "off"]},
        {"if": [GOLD, "on"]},
        {"if": [True, "on", "off"]},
        {"or": [{"fractional": [["on", 1], ["off", 99]]}, "off"]},
        {"if": [{"and": [GOLD, "on"]}, "on", "off"]},
        {"if": [{">=": [TIME, 1_700_000_000]}, "on"]},
        {"if": [{">=": [TIME, "1700000000"]}, "on"]},
        {"if": [{"in": [{"var": "tier"}, ["gold", "silver"]]}, "on"]},
        {"fractional": [["on", {"var": "share"}], ["off", 0]]},
        {"fractional": [["on", 1], ["off", 99]]},
    ],
)
def test_what_people_mean_is_not_noted(rule: Any) -> None:
    assert notes(rule, default="off") == []


SPLIT = {"fractional": [["on", 1], ["off", 99]]}


@pytest.mark.parametrize("rule", [SPLIT, {"if": [GOLD, "on", SPLIT]}, {"if": [GOLD, {"$ref": "s"}, "off"]}])
def test_a_split_that_turns_on_for_callers_without_a_key_is_noted(rule: Any) -> None:
    [note] = notes(rule, s=SPLIT)
    assert 'callers without a targeting key get the default variant, "on"' in note
    assert notes(rule, variants={"on": True, "off": False}, default="off", s=SPLIT) == []
    assert len(notes(rule, variants={"yes": True, "on": True, "off": False}, default="yes", s=SPLIT)) == 1
    assert notes({"or": [rule, "off"]}, s=SPLIT) == []


def test_notes_are_bounded() -> None:
    assert len(notes({"if": ["x", "on"] * 100 + ["off"]})) == MAX_NOTES
    assert notes({"if": [{"$ref": "a"}, "on"]}, a={"$ref": "a"}) == []


def test_a_file_has_the_notes_at_their_places() -> None:
    rule = {"if": [{"$ref": "odd"}, "on", "on"]}
    flag = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "off", "targeting": rule}
    found = read({"flags": {"a": flag, "b": flag}, "$evaluators": {"odd": {"or": ["x", GOLD]}}})
    assert [note.path for note in found.notes] == [
        ("flags", "a", "targeting", "if"),
        ("$evaluators", "odd", "or", 0),
        ("flags", "b", "targeting", "if"),
    ]
