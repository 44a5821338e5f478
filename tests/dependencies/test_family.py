"""Flags that depend on others: what they evaluate to, in one order and from one work budget, without recursion."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from flagsvc.api.flagd.definitions import definition_of
from flagsvc.core.documents import dumps, from_document, loads, to_document
from flagsvc.core.errors import InvalidRequest
from flagsvc.core.evaluation import DISABLED, ErrorCode, Outcome, Reason, explain, prepare
from flagsvc.core.family import evaluate_family
from flagsvc.core.flagd.writing import write
from flagsvc.core.model import Flag, Status
from flagsvc.core.prerequisites import MAX_DEPTH
from flagsvc.core.validation import validated
from tests.dependencies.graphs import CONTEXTS, KEYS, MANY, NOW, oracle, ours, seen, world
from tests.sizes import examples

CASES = 250
LONG = [pytest.mark.long, pytest.mark.timeout(3600)]


def on(key: str, *parents: str, **fields: Any) -> Flag:
    prerequisites = [{"flagKey": parent, "variants": ["on"]} for parent in parents]
    return Flag(key=key, status=Status.ENABLED, prerequisites=prerequisites or None, **fields)


def evaluated(key: str, *flags: Flag, **context: Any) -> Outcome:
    return ours({flag.key: flag for flag in flags}, key, context)


@pytest.mark.parametrize("seeds", [range(examples(CASES)), pytest.param(MANY, marks=LONG)], ids=len)
def test_random_graphs_evaluate_as_the_naive_oracle_does(seeds: range) -> None:
    kinds: Counter[tuple[str, bool]] = Counter()
    for seed in seeds:
        one = world(seed)
        prepared = {key: prepare(flag) for key, flag in one.flags.items()}
        for key in KEYS:
            for context in CONTEXTS:
                found = seen(evaluate_family(key, prepared.get, context, NOW))
                assert found == oracle(one, key, context), (seed, key, context)
                kinds[found[0], bool(found[3])] += 1
    print(f"\n{len(seeds)} graphs, {kinds.total()} evaluations are equal: {dict(kinds)}")  # noqa: T201
    assert kinds.keys() >= {(Reason.DISABLED, True), (Reason.TARGETING_MATCH, False), (Reason.ERROR, False)}


def test_met_unmet_missing_and_disabled() -> None:
    child = on("child", "parent")
    assert evaluated("child", child, on("parent")).value is True
    unmet = evaluated("child", child, on("parent", default_variant="off"))
    assert (unmet.reason, unmet.variant, unmet.failed_prerequisite) == (Reason.DISABLED, None, "parent")
    assert evaluated("child", child).failed_prerequisite == "parent"
    assert evaluated("child", child, Flag(key="parent")).failed_prerequisite == "parent"
    assert evaluated("child", on("child", "parent", default_variant="off")).failed_prerequisite == "parent"
    disabled = Flag(key="child", prerequisites=[{"flagKey": "x", "variants": ["on"]}])
    assert evaluated("child", disabled) is DISABLED


def test_the_first_one_that_fails_decides_and_a_diamond_is_no_cycle() -> None:
    top, left, right = on("top"), on("left", "top"), on("right", "top")
    assert evaluated("child", on("child", "left", "right"), left, right, top).value is True
    off = on("top", default_variant="off")
    assert evaluated("child", on("child", "right", "left"), left, right, off).failed_prerequisite == "right"


def test_a_parent_with_an_error_is_an_error_of_the_child() -> None:
    broken = on("parent", targeting='{"no_such": 1}')
    found = evaluated("child", on("child", "parent"), broken)
    assert (found.reason, found.error_code) == (Reason.ERROR, ErrorCode.GENERAL)
    assert found.message.startswith("The prerequisite 'parent' cannot be evaluated: The targeting rule is invalid")


def test_a_cycle_is_general_wherever_it_is_reached_from() -> None:
    flags = on("a", "b"), on("b", "c"), on("c", "b"), on("d")
    text = "The flag's prerequisites cannot be evaluated: they depend on themselves: b -> c -> b"
    for key in "ab":
        found = evaluated(key, *flags)
        assert (found.error_code, found.message) == (ErrorCode.GENERAL, text)
    assert evaluated("self", on("self", "self")).message.endswith("self -> self")
    assert evaluated("d", *flags).value is True


def test_the_longest_chain_and_one_more() -> None:
    chain = [on("0"), *(on(str(i), str(i - 1)) for i in range(1, MAX_DEPTH + 2))]
    assert evaluated(str(MAX_DEPTH), *chain).value is True
    found = evaluated(str(MAX_DEPTH + 1), *chain)
    assert found.error_code is ErrorCode.GENERAL
    assert "a chain of more than 10 flags" in found.message


def test_ten_thousand_flags_in_a_row_are_an_error_without_recursion() -> None:
    chain = [on("0"), *(on(str(i), str(i - 1)) for i in range(1, 10_000))]
    found = evaluated("9999", *chain)
    assert found.error_code is ErrorCode.GENERAL
    assert found.over_budget


def test_all_flags_of_a_family_share_one_work_budget() -> None:
    costly = '{"if": [{"in": [{"var": "needle"}, {"var": "text"}]}, "on", "on"]}'
    context = {"needle": "x" * 40, "text": "a" * 29_000}
    family = [on(f"p{i}", targeting=costly) for i in range(20)]
    child = on("child", *(flag.key for flag in family))
    assert evaluated("child", on("child", "p0"), *family, **context).value is True
    found = evaluated("child", child, *family, **context)
    assert found.error_code is ErrorCode.GENERAL
    assert found.over_budget


def test_whoever_evaluates_it_alone_gets_an_error_and_never_a_wrong_value() -> None:
    prepared = prepare(on("child", "parent"))
    assert prepared.fixed is None
    assert prepared.evaluate({}, NOW).error_code is ErrorCode.GENERAL
    assert prepared.reads_clock


def test_a_definition_keeps_them_and_says_that_it_needs_them() -> None:
    flag = on("child", "parent")
    document = to_document(flag)
    assert document["prerequisites"] == [{"flagKey": "parent", "variants": ["on"]}]
    assert document["needs"] == ["prerequisites-1"]
    assert from_document(document) == flag
    assert loads(dumps(flag)) == flag
    assert validated(flag).prerequisites == flag.prerequisites


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ([1], "flag.prerequisites[0]"),
        ([{"flagKey": "a"}], "flag.prerequisites[0]"),
        ([{"flagKey": "", "variants": ["on"]}], "flag.prerequisites[0].flagKey"),
        ([{"flagKey": "a", "variants": []}], "flag.prerequisites[0].variants"),
        ([{"flagKey": "a", "variants": ["on", "on"]}], "flag.prerequisites[0].variants[1]"),
        ([{"flagKey": "a", "variants": ["on"]}] * 2, "flag.prerequisites[1].flagKey"),
        ([{"flagKey": str(i), "variants": ["on"]} for i in range(21)], "flag.prerequisites"),
    ],
)
def test_what_is_malformed_is_refused_and_is_a_parse_error_where_it_is_stored(value: Any, field: str) -> None:
    flag = Flag(key="k", status=Status.ENABLED, prerequisites=value)
    with pytest.raises(InvalidRequest) as refused:
        validated(flag)
    assert [each.field for each in refused.value.violations] == [field]
    found = prepare(from_document(json.loads(json.dumps(to_document(flag))))).fixed
    assert found is not None
    assert found.error_code is ErrorCode.PARSE_ERROR


def test_it_is_not_exported_without_its_prerequisites_and_a_file_is_refused() -> None:
    flag = on("child", "parent")
    sent = definition_of(flag, prepare(flag))
    assert json.loads("{" + sent.text + "}")["child"]["state"] == "DISABLED"
    assert sent.problem == "The flag cannot be exported: its prerequisites are not known here"
    with pytest.raises(InvalidRequest, match="it has prerequisites"):
        write([flag])


def test_an_explanation_is_never_of_the_flag_alone() -> None:
    outcome, _ = explain(on("child", "parent"), {}, NOW)
    assert outcome.error_code is ErrorCode.GENERAL
