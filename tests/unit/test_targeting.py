"""What rules read and what bounds them: fields, flagd's own fields, evaluators, loops, sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from flagsvc.core.targeting import RuleError
from flagsvc.core.targeting.nodes import MAX_WORK
from tests.targeting import FAILS, result, var


class RecordingContext(Mapping[str, Any]):
    """A context that records which fields are read."""

    def __init__(self, **fields: Any) -> None:
        self.fields, self.names = fields, []

    def __getitem__(self, name: str) -> Any:
        self.names.append(name)
        return self.fields[name]

    def get(self, name: str, default: Any = None) -> Any:
        self.names.append(name)
        return self.fields.get(name, default)

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("no rule here needs all fields")

    def __len__(self) -> int:
        return len(self.fields)


def test_only_fields_that_decide_are_asked_for() -> None:
    rule = {"if": [{"and": [{"==": [var("a"), 1]}, {"==": [var("b"), 2]}]}, var("c"), {"or": [var("d"), var("e")]}]}
    context = RecordingContext(a=0, b=2, c=3, d=4, e=5)
    assert result(rule, context) == 4
    assert context.names == ["a", "d"]


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        ({"fractional": [["a", 1], ["b", 1]]}, ["targetingKey"]),
        ({"fractional": [var("email"), ["a", 1], ["b", 1]]}, ["email", "targetingKey"]),  # as if it were not there
        ({"==": [var("user.name"), "x"]}, ["user"]),
        ({"missing": ["a", "b.c"]}, ["a", "b"]),
        ({"==": [var("$flagd.flagKey"), var("$flagd.timestamp")]}, []),
        ({"in": [1, [2, 1]]}, []),
        ({"some": [var("l"), {"==": [var("x"), 1]}]}, ["l"]),
        (var(["a", var("b")]), ["a", "b"]),
    ],
)
def test_a_rule_asks_for_the_fields_that_it_names(rule: Any, names: list[str]) -> None:
    context = RecordingContext(l=[{"x": 1}])
    result(rule, context)
    assert set(context.names) == set(names)


def test_a_branch_that_is_not_taken_does_no_harm() -> None:
    assert result({"if": [True, "on", FAILS]}) == "on"
    assert result({"or": ["on", FAILS]}) == "on"
    assert result({"and": [0, FAILS]}) == 0


@pytest.mark.parametrize(("operator", "given"), [("some", True), ("all", False), ("none", False)])
def test_loops_stop_at_the_element_that_decides(operator: str, given: bool) -> None:
    items = [1 if operator != "all" else 0, 7]
    body = {"if": [{"==": [var(""), 7]}, FAILS, var("")]}
    assert result({operator: [items, body]}) is given


def test_the_flags_key_and_the_time_are_fields() -> None:
    assert result(var("$flagd.flagKey")) == "my-flag"
    assert result(var("$flagd.timestamp")) == 1_700_000_000
    assert result(var("$flagd")) == {"flagKey": "my-flag", "timestamp": 1_700_000_000}
    assert result(var("$flagd.nothing")) is None


def test_a_caller_cannot_give_flagds_own_fields() -> None:
    context = {"$flagd": {"flagKey": "forged", "timestamp": 1}}
    assert result(var("$flagd.flagKey"), context) == "my-flag"
    assert result(var("$flagd"), context)["timestamp"] == 1_700_000_000


def test_inside_a_loop_the_element_is_the_data() -> None:
    assert result({"map": [[{"n": 1, "m": 2}, 5], var("n")]}, {"n": 9}) == [1, None]
    assert result({"map": [[1], var("$flagd.flagKey")]}) == [None]
    assert result({"filter": [[1, 2, 3], {">": [var(""), 1]}]}) == [2, 3]
    assert result({"reduce": [[1, 2, 3], {"+": [var("accumulator"), var("current")]}, 10]}) == 16


def test_a_reference_stands_for_its_evaluator() -> None:
    staff = {"ends_with": [var("email"), "@example.com"]}
    rule = {"if": [{"and": [{"$ref": "staff"}, {"$ref": "adult"}]}, "on", "off"]}
    context = {"email": "a@example.com", "age": 20}
    assert result(rule, context, staff=staff, adult={">=": [var("age"), 18]}) == "on"
    assert result(rule, {"email": "a@example.com"}, staff=staff, adult={">=": [var("age"), 18]}) == "off"


def test_an_evaluator_may_refer_to_another() -> None:
    assert result({"!": [{"$ref": "a"}]}, {"x": 1}, a={"!": [{"$ref": "b"}]}, b=var("x")) is True


def test_an_evaluator_reads_the_element_inside_a_loop() -> None:
    rule = {"and": [{"$ref": "big"}, {"some": [var("l"), {"$ref": "big"}]}]}
    assert result(rule, {"n": 5, "l": [{"n": 1}, {"n": 9}]}, big={">": [var("n"), 3]}) is True
    assert result(rule, {"n": 5, "l": [{"n": 1}]}, big={">": [var("n"), 3]}) is False


def test_an_evaluator_may_be_any_part_of_a_rule() -> None:
    assert result({"in": [var("c"), {"$ref": "eu"}]}, {"c": "de"}, eu=["de", "fr"]) is True
    assert result({"if": [True, {"$ref": "name"}]}, name="on") == "on"


def test_steps_over_lists_are_bounded() -> None:
    def loop(times: int) -> Any:
        return result({"map": [var("l"), {"+": [var(""), 1]}]}, {"l": [0] * times})

    assert len(loop(MAX_WORK // 10)) == MAX_WORK // 10
    with pytest.raises(RuleError, match=f"more than {MAX_WORK} steps"):
        loop(MAX_WORK)
    with pytest.raises(RuleError, match=f"more than {MAX_WORK} steps"):
        result({"reduce": [var("l"), {"+": [var("accumulator"), 1]}]}, {"l": [0] * MAX_WORK})


def test_texts_and_lists_are_bounded() -> None:
    with pytest.raises(RuleError, match="a string of more than 65536 characters"):
        result({"cat": [var("t")] * 2}, {"t": "x" * 32_769})
    assert len(result({"cat": [var("t")] * 2}, {"t": "x" * 32_768})) == 65_536
    with pytest.raises(RuleError, match="a list of more than 10000 elements"):
        result({"merge": [var("l")] * 2}, {"l": [0] * 5_001})
