"""The steps that explain an evaluation, in their order and bounded."""

from __future__ import annotations

from typing import Any

import pytest

from flagsvc.core.targeting import Rule, RuleError, compile_rule
from flagsvc.core.targeting.nodes import MAX_STEPS
from tests.targeting import NOW, result, var


def steps(rule: Any, context: dict[str, Any], **evaluators: Any) -> list[tuple[Any, ...]]:
    compiled: Rule = compile_rule(rule, "my-flag", evaluators, traced=True)
    _, taken = compiled.explain(context, NOW)
    return [(".".join(map(str, step.path)), step.depth, step.result, step.note) for step in taken]


def test_steps_have_each_operators_result_in_the_order_of_evaluation() -> None:
    rule = {"if": [{"and": [{"==": [var("a"), 1]}, {"$ref": "e"}]}, "on", {"cat": ["never"]}]}
    assert steps(rule, {"a": 1}, e={"!": [var("b")]}) == [
        ("if", 0, "on", ""),
        ("if.0.and", 1, True, ""),
        ("if.0.and.0.==", 2, True, ""),
        ("if.0.and.0.==.0.var", 3, 1, "a"),
        ("$evaluators.e.!", 2, True, ""),
        ("$evaluators.e.!.0.var", 3, None, "b"),
    ]


def test_a_version_that_has_no_result_has_none_also_beside_what_is_no_version() -> None:
    rule = {"sem_ver": [{"cat": [var("t")] * 2}, "=", ["no version"]]}
    with pytest.raises(RuleError, match="a string of more than"):
        result(rule, {"t": "x" * 40_000})
    assert result(rule, {"t": "x"}) is None


def test_a_step_without_a_result_says_why() -> None:
    taken = steps({"if": [{"cat": [var("x")] * 2}, "on"]}, {"x": "y" * 40_000})
    assert taken[1] == ("if.0.cat", 1, None, "a string of more than 65536 characters")


def test_a_splits_step_has_bucket_and_hash_or_what_is_missing() -> None:
    rule = {"fractional": [["a", 1], ["b", 1]]}
    [split] = steps(rule, {"targetingKey": "u"})
    assert split[3].startswith("bucket ")
    assert ", hash 0x" in split[3]
    assert steps(rule, {})[0][3] == "no split: nothing to hash"
    assert steps({"fractional": [["a", {"+": [0.5]}]]}, {"targetingKey": "u"})[0][3] == "no split: invalid weights"


def test_steps_are_bounded_in_number_and_size() -> None:
    taken = steps({"map": [var("l"), {"cat": [var(""), "x" * 300]}]}, {"l": ["y"] * 5_000})
    assert len(taken) == MAX_STEPS
    assert taken[0][2] == "a list of 5000 elements"
    assert taken[2][2] == "a string of 301 characters"
