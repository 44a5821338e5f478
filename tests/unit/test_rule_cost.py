"""A rule's worst case: refused when it is written, bounded when it is evaluated, and no obstacle to ordinary rules."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flagsvc.core.errors import InvalidRequest
from flagsvc.core.evaluation import ErrorCode, prepare
from flagsvc.core.flagd.reading import read
from flagsvc.core.model import Flag, Status
from flagsvc.core.targeting.cost import too_expensive
from flagsvc.core.targeting.nodes import MAX_WORK, STEPS_PER_MS, search_steps
from flagsvc.core.validation import examined, validated

SEARCH = {"in": ["ab", {"var": "h"}]}
SPLIT = {"fractional": [{"cat": [{"var": "$flagd.flagKey"}, {"var": "email"}]}, ["on", 50], ["off", 50]]}
"""Of many splits in the branches of an `if`, one is evaluated."""
SEARCHES = {"if": [{"or": [SEARCH] * 3_125}, "on", "off"]}


def flag(rule: Any) -> Flag:
    return Flag(key="f", status=Status.ENABLED, targeting=json.dumps(rule))


def path_of(rule: Any, **evaluators: Any) -> str | None:
    problem = too_expensive(rule, evaluators)
    return None if problem is None else ".".join(map(str, problem.path))


def test_thousands_of_searches_are_refused_with_their_place_and_the_cure() -> None:
    with pytest.raises(InvalidRequest) as refused:
        validated(flag(SEARCHES))
    [violation] = refused.value.violations
    assert violation.field == "flag.targeting.if[0].or"
    assert "it can take 823 ms" in violation.found
    assert "at most 5 ms" in violation.found
    assert '{"in": [x, ["a", "b"]]}' in violation.found


def test_thousands_of_searches_in_a_served_file_are_no_error() -> None:
    checked, found = examined(flag(SEARCHES), is_write=False)
    assert (checked.targeting, found) == (json.dumps(SEARCHES, separators=(",", ":")), [])


def test_thousands_of_searches_in_an_imported_file_are_a_warning() -> None:
    definition = {"state": "ENABLED", "variants": {"on": True, "off": False}, "targeting": SEARCHES}
    content = read({"flags": {"f": definition}})
    assert (len(content.flags), content.violations) == (1, [])
    assert "it can take 823 ms" in content.warnings[0].text


def test_thousands_of_searches_that_are_stored_end_within_the_budget() -> None:
    prepared = prepare(flag(SEARCHES))
    assert prepared.evaluate({"h": "abc"}, 0.0).variant == "on"
    outcome = prepared.evaluate({"h": "a" * 65_000}, 0.0)
    assert outcome.error_code is ErrorCode.GENERAL
    assert "5 ms of work" in outcome.message


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ({"if": [{"or": [SEARCH] * 30}, "on", "off"]}, "if.0.or"),
        ({"some": [list(range(50_000)), {"==": [{"var": ""}, 1]}]}, "some"),
        ({"some": [{"var": "l"}, {"some": [list(range(100)), {"==": [{"var": ""}, 1]}]}]}, "some.1.some"),
        ({"if": [{"and": [True, {"$ref": "slow"}]}, "on", "off"]}, "or"),
        ({"if": [{"!": [{"merge": [{"var": "a"}] * 500}]}, "on", "off"]}, "if.0.!.0.merge"),
        ({"if": [True, "on", {"or": [{"cat": [{"var": "a"}, "-"]}] * 60}]}, "if.2.or"),
    ],
)
def test_the_place_is_where_most_of_the_work_is(rule: Any, path: str) -> None:
    found = path_of(rule, slow={"or": [SEARCH] * 30})
    assert found is not None
    assert found.startswith(path)


@pytest.mark.parametrize(
    "rule",
    [
        {"if": [{"or": [SEARCH] * 18}, "on", "off"]},
        {"if": [{"in": [{"var": "user"}, [f"user-{i}" for i in range(9_000)]]}, "on", "off"]},
        {"if": [{"or": [{"==": [{"var": "tier"}, f"t{i}"]} for i in range(2_000)]}, "on", "off"]},
        {"if": [{"or": [{"starts_with": [{"var": "url"}, f"/{i}"]} for i in range(2_000)]}, "on", "off"]},
        {"if": [{"and": [{">": [{"var": "age"}, i]} for i in range(2_000)]}, "on", "off"]},
        {"if": [{"some": [{"var": "roles"}, {"in": [{"var": ""}, ["admin", "owner"]]}]}, "on", "off"]},
        {"some": [{"var": "orders"}, {"some": [{"var": "items"}, {"==": [{"var": "sku"}, "a-1"]}]}]},
        {"fractional": [{"cat": [{"var": "$flagd.flagKey"}, {"var": "email"}]}, ["on", 50], ["off", 50]]},
        {"if": [part for i in range(50) for part in ({"==": [{"var": "tier"}, f"t{i}"]}, SPLIT)]},
    ],
)
def test_ordinary_rules_of_any_length_are_within_the_limit(rule: Any) -> None:
    assert path_of(rule) is None


def test_a_search_is_charged_for_what_it_can_take() -> None:
    whole_context = search_steps(2, 65_536)
    assert 0.2 * STEPS_PER_MS < whole_context < 0.4 * STEPS_PER_MS
    assert search_steps(99, 29_999) > 2 * search_steps(99, 30_000)  # where CPython changes its algorithm
    assert search_steps(3, 2) == 0
    assert 18 * whole_context < MAX_WORK < 30 * whole_context
