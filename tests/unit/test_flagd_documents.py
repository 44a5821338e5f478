"""A flag as flagd's JSON: exactly the fields that providers accept, and nothing that one could reject."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flagsvc.api.flagd.definitions import definition_of
from flagsvc.core.evaluation import prepare
from flagsvc.core.model import Flag, Status

COLORS = {"red": "#f00", "blue": "#00f"}
RULE = {"if": [{"var": "x"}, "blue", None]}
ON = Status.ENABLED


def definition(flag: Flag) -> dict[str, Any]:
    return definition_and_problem(flag)[0]


def definition_and_problem(flag: Flag) -> tuple[dict[str, Any], str]:
    text, problem = definition_of(flag, prepare(flag))
    found: dict[str, dict[str, Any]] = json.loads(f"{{{text}}}")
    assert list(found) == [flag.key]
    return found[flag.key], problem


def test_a_switch_has_its_two_variants() -> None:
    assert definition(Flag(key="a", status=ON)) == {
        "state": "ENABLED",
        "defaultVariant": "on",
        "variants": {"on": True, "off": False},
        "source": "default",
    }


def test_everything_that_a_flag_has_and_nothing_else() -> None:
    flag = Flag(
        key='quote " and ü',
        flag_set="mobile",
        status=ON,
        description="not sent",
        owner="nobody",
        variants={"a": 1, "b": 2.5},
        default_variant="b",
        targeting=json.dumps(RULE),
        metadata={"team": "web", "rank": 3, "live": False},
    )
    assert definition(flag) == {
        "state": "ENABLED",
        "defaultVariant": "b",
        "variants": {"a": 1, "b": 2.5},
        "source": "mobile",
        "metadata": {"team": "web", "rank": 3, "live": False, "flagSetId": "mobile"},
        "targeting": RULE,
    }


def test_metadata_may_name_another_set() -> None:
    flag = Flag(key="a", flag_set="mobile", status=ON, metadata={"flagSetId": "app"})
    assert definition(flag)["metadata"] == {"flagSetId": "app"}


@pytest.mark.parametrize("empty", [None, "", "{}", " {} "])
def test_no_rule_is_no_field(empty: str | None) -> None:
    assert "targeting" not in definition(Flag(key="a", status=ON, targeting=empty))


def test_a_missing_default_variant_is_empty() -> None:
    assert definition(Flag(key="a", status=ON, variants=COLORS))["defaultVariant"] == ""


@pytest.mark.parametrize(
    ("status", "targeting", "state", "default"),
    [
        (Status.ENABLED, RULE, "ENABLED", "red"),
        (Status.BETA, RULE, "ENABLED", ""),
        (Status.BETA, None, "DISABLED", "red"),
        (Status.DISABLED, RULE, "DISABLED", "red"),
        (Status.DEPRECATED, RULE, "DISABLED", "red"),
    ],
)
def test_each_status_is_one_of_flagds_two_states(status: Status, targeting: Any, state: str, default: str) -> None:
    rule = json.dumps(targeting) if targeting else None
    found = definition(Flag(key="a", status=status, variants=COLORS, default_variant="red", targeting=rule))
    assert (found["state"], found["defaultVariant"], found.get("targeting")) == (state, default, targeting)


def test_what_a_rule_refers_to_stands_in_it_also_through_others() -> None:
    evaluators = {
        "staff": '{"or": [{"$ref": "mail"}, false]}',
        "mail": r'{"ends_with": [{"var": "email"}, "@\"ü\\u.x"]}',
    }
    rule = {"if": [{"$ref": "staff"}, "blue", {"if": [{"$ref": "mail"}, "red"]}]}
    flag = Flag(key="a", status=ON, variants=COLORS, targeting=json.dumps(rule), evaluators=evaluators)
    mail = {"ends_with": [{"var": "email"}, '@"ü\\u.x']}
    assert definition(flag)["targeting"] == {
        "if": [{"or": [mail, False]}, "blue", {"if": [mail, "red"]}],
    }


@pytest.mark.parametrize("rule", [{"nope": []}, {"if": [{"$ref": "gone"}, "red"]}, "red", None])
def test_an_odd_rule_is_handed_out_as_flagd_hands_it_out(rule: Any) -> None:
    found, problem = definition_and_problem(Flag(key="a", status=ON, variants=COLORS, targeting=json.dumps(rule)))
    assert (found["state"], found["targeting"], problem) == ("ENABLED", rule, "")


BROKEN: dict[str, dict[str, Any]] = {
    "no JSON": {"targeting": '{"if": ['},
    "circular": {"targeting": '{"$ref": "a"}', "evaluators": {"a": '{"$ref": "a"}'}},
    "no such default": {"default_variant": "purple"},
    "no such default with a rule": {"default_variant": "purple", "targeting": json.dumps(RULE)},
    "malformed": {"problem": "The stored definition is malformed: variants", "variants": {}},
}


@pytest.mark.parametrize("row", BROKEN)
def test_a_broken_flag_is_disabled_and_reported(row: str) -> None:
    fields = {"variants": COLORS, "default_variant": "red", **BROKEN[row]}
    found, problem = definition_and_problem(Flag(key="a", status=ON, **fields))
    assert problem
    assert found["state"] == "DISABLED"
    assert "targeting" not in found
    assert found["variants"]
    assert found["defaultVariant"] in ("", *found["variants"])


def test_a_rule_that_grows_beyond_bounds_is_not_handed_out() -> None:
    long = json.dumps({"in": [{"var": "x"}, ["y" * 1_000] * 100]})
    rule = json.dumps({"if": [{"or": [{"$ref": "long"}] * 50}, "red"]})
    flag = Flag(key="a", status=ON, variants=COLORS, targeting=rule, evaluators={"long": long})
    found, problem = definition_and_problem(flag)
    assert "too large" in problem or "more than" in problem
    assert (found["state"], "targeting" in found) == ("DISABLED", False)


def test_a_disabled_flag_that_is_broken_is_no_harm() -> None:
    broken = Flag(key="a", status=Status.DISABLED, variants=COLORS, targeting='{"if": [')
    found, problem = definition_and_problem(broken)
    assert problem
    assert found == {"state": "DISABLED", "defaultVariant": "", "variants": COLORS, "source": "default"}


def test_a_lone_surrogate_does_not_break_the_message() -> None:
    text, _ = definition_of(flag := Flag(key="a", status=ON, variants={"x": "\ud800ü"}), prepare(flag))
    assert json.loads(f"{{{text.encode().decode()}}}")["a"]["variants"] == {"x": "\ud800ü"}


def test_metadata_that_providers_would_reject_are_left_out() -> None:
    found = definition(Flag(key="a", status=ON, metadata={"": "x", "none": None, "deep": {"a": 1}, "good": 1}))
    assert found["metadata"] == {"good": 1}


def test_whole_numbers_are_written_without_a_fraction_as_flagd_writes_them() -> None:
    variants = {"ten": 10.0, "half": 0.5, "large": 1e21, "in": {"a": [2.0]}}
    flag = Flag(key="ten", variants=variants, default_variant="ten")
    text, _ = definition_of(flag, prepare(flag))
    assert '"variants":{"ten":10,"half":0.5,"large":1e+21,"in":{"a":[2]}}' in text
