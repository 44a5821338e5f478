"""A rule whose evaluation runs out of its budget is named: in the log once a revision, and in the status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from flagsvc.core.evaluation import ErrorCode
from flagsvc.core.model import Flag, FlagId, Status
from flagsvc.ports import Entry
from flagsvc.serving import expensive_rules
from flagsvc.serving.expensive_rules import ExpensiveRules
from flagsvc.view.near_cache import NearCache
from tests.replicas import replica

RULE = json.dumps({"if": [{"or": [{"in": ["ab", {"var": "text"}]}] * 300}, "on", "off"]})
SLOW = Flag(key="slow", status=Status.ENABLED, targeting=RULE, revision=1)


def held(*flags: Flag) -> NearCache:
    near = NearCache(100, 5.0)
    for flag in flags:
        near.apply_read(Entry.of(flag), 0.0, 0.0)
    return near


async def test_a_served_rule_that_is_too_expensive_is_logged_once_and_a_problem_until_it_changes(
    tmp_path: Path,
) -> None:
    file = tmp_path / "flags.json"
    flags = {"slow": {"state": "ENABLED", "variants": {"on": True, "off": False}, "targeting": json.loads(RULE)}}
    file.write_text(json.dumps({"flags": flags}))
    async with replica(store_url=f"file://{file}") as (_, server):
        reader = server.replica.reader
        await server.replica.follower.proof.loaded.wait()
        with capture_logs() as logs:
            for _ in range(3):
                found = await reader.evaluate(FlagId("default", "slow"), {"text": "a" * 60_000})
            [again] = await reader.evaluate_all("default", ["slow"], {"text": "a" * 60_000})
            harmless = await reader.evaluate(FlagId("default", "slow"), {"text": "a"})
        assert [found.outcome.error_code, again.outcome.error_code] == [ErrorCode.GENERAL] * 2
        assert harmless.outcome.variant == "off"
        assert [(line["flag"], line["flag_set"]) for line in logs if line["event"] == "rule_over_budget"] == [
            ("slow", "default")
        ]
        [problem] = server.replica.status().problems
        assert (problem.name, "'slow' of flag set 'default'" in problem.detail) == ("rule_over_budget", True)


def test_a_problem_ends_when_the_flag_has_changed_or_is_gone() -> None:
    near = held(SLOW)
    rules = ExpensiveRules(near)
    rules.note(SLOW.id, 1)
    assert len(list(rules.problems())) == 1
    near.apply_read(Entry.of(Flag(key="slow", revision=2)), 1.0, 1.0)
    assert list(rules.problems()) == []
    near.complete = True
    rules.note(FlagId("default", "gone"), 1)
    assert list(rules.problems()) == []


def test_what_is_remembered_and_logged_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expensive_rules, "MAX_REMEMBERED", 10)
    rules = ExpensiveRules(held())
    with capture_logs() as logs:
        for _ in range(2):
            for number in range(50):
                rules.note(FlagId("default", f"k{number:02}"), 1)
    assert len(logs) == 10
    [problem] = rules.problems()
    assert "here 10: 'k00' of" in problem.detail
    assert "'k04'" in problem.detail
    assert "'k05'" not in problem.detail
