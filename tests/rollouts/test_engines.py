"""A rollout that is exported: flagd's unmodified engines give everybody the variant that flagsvc gives."""

from __future__ import annotations

import json
import logging
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext

from flagsvc.api.flagd.definitions import definition_of
from flagsvc.core.evaluation import prepare
from flagsvc.core.flagd.reading import read
from flagsvc.core.flagd.writing import write
from flagsvc.core.model import Flag
from flagsvc.core.rollouts import MAX_SHARE, Point, paused, rolled_back
from tests.providers import node_app
from tests.rollouts.moments import DAY, START, WEEK, flag, rollout, text

LINE = rollout(*WEEK, linear=True)
UNEVEN = rollout(
    Point(START, 12_345),
    Point(START + 7_777, 67_891),
    Point(START + 9_999, 67_891),
    Point(START + 200_000, 300),
    linear=True,
    start_share=777,
)
STEPS = rollout(Point(START, 1_000), Point(START + 3_600, 10_000), Point(START + DAY, MAX_SHARE))
VIP = {"if": [{"===": [{"var": "plan"}, "vip"]}, "on", {"if": [{"===": [{"var": "plan"}, "old"]}, "off"]}]}
FLAGS = [
    flag(LINE, key="line"),
    flag(rollout(Point(START, 0), Point(START + 600, MAX_SHARE), linear=True), key="quick"),
    flag(rollout(Point(START, 0), Point(START + 400 * DAY, MAX_SHARE), linear=True), key="slow"),
    flag(UNEVEN, key="uneven"),
    flag(STEPS, key="steps"),
    flag(rollout(Point(START, 30_000), bucket_by="company.id"), key="by-company"),
    flag(LINE, key="after-targeting", targeting=text(VIP)),
    flag(paused(UNEVEN, START + 8_888), key="paused"),
    flag(rolled_back(LINE, START + 2 * DAY), key="back"),
    flag(rolled_back(STEPS, START + 2 * DAY, 5_000), key="evenly-back"),
]
_RANDOM = random.Random(18)
MOMENTS = sorted(
    {START + by for by in (-9, 0, 1, 599, 600, 3_599, 3_600, DAY, 2 * DAY, 7 * DAY - 1, 7 * DAY, 999 * DAY)}
    | {START + _RANDOM.randrange(8 * DAY) for _ in range(12)}
)
PEOPLE: list[dict[str, Any]] = [
    {"targetingKey": f"user-{n}", "plan": ("vip", "old", "new", None)[n % 4], "company": {"id": f"c{n % 20}"}}
    for n in range(80)
]
ODD: list[dict[str, Any]] = [
    {},
    {"targetingKey": "0"},
    {"targetingKey": ""},
    {"targetingKey": "x", "company": "c1"},
    *({"targetingKey": "x", "company": {"id": odd}} for odd in (5, 5.5, True, None, "0", "", ["a"], {"a": 1})),
]
CONTEXTS = PEOPLE + ODD
Found = dict[str, list[list[str | None]]]


def ours(bucketing: int, contexts: list[dict[str, Any]]) -> Found:
    found: Found = {}
    for each in FLAGS:
        prepared = prepare(replace(each, bucketing=bucketing))
        found[each.key] = [[prepared.evaluate(context, at).variant for context in contexts] for at in MOMENTS]
    return found


def differences(one: Found, other: Found, contexts: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [
        (key, at - START, context, variant, other[key][row][column])
        for key, rows in one.items()
        for row, at in enumerate(MOMENTS)
        for column, context in enumerate(contexts)
        if (variant := rows[row][column]) != other[key][row][column]
    ]


@pytest.fixture
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("quiet")
def test_flagds_engine_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    core, now = FlagdCore(), SimpleNamespace(time=lambda: 0.0)
    monkeypatch.setattr(sys.modules["openfeature.contrib.tools.flagd.core.targeting.targeting"], "time", now)
    core.set_flags(json.dumps(write(FLAGS)))
    found: Found = {each.key: [] for each in FLAGS}
    for at in MOMENTS:
        now.time = lambda at=at: at + 0.5  # type: ignore[misc]
        for key, rows in found.items():
            rows.append([_in_python(core, key, dict(context)) for context in CONTEXTS])
    assert differences(ours(3, CONTEXTS), found, CONTEXTS) == []


def _in_python(core: FlagdCore, key: str, context: dict[str, Any]) -> str | None:
    return core.resolve_boolean_value(key, False, EvaluationContext(context.pop("targetingKey", None), context)).variant


def test_flagds_engine_in_node() -> None:
    node_app.install()
    asked = json.dumps({"document": write(FLAGS), "moments": MOMENTS, "contexts": CONTEXTS})
    command = [str(Path(sys.executable).with_name("node")), "moments.mjs"]
    done = subprocess.run(
        command, cwd=node_app.FOLDER, input=asked, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert differences(ours(2, CONTEXTS), json.loads(done.stdout), CONTEXTS) == []


def test_what_is_exported_is_imported_and_synchronized_as_the_same_rule() -> None:
    document = write(FLAGS)
    again = read(document)
    assert again.violations == []
    for before, after in zip(FLAGS, again.flags, strict=True):
        assert after.rollout is None, "a flagd file has rules only"
        one, other = prepare(before), prepare(after)
        for at in MOMENTS:
            answers = [(one.evaluate(context, at), other.evaluate(context, at)) for context in CONTEXTS]
            assert [a for a, _ in answers] == [b for _, b in answers]
        sent = json.loads("{" + definition_of(before, prepare(before)).text + "}")[before.key]
        assert sent["targeting"] == document["flags"][before.key]["targeting"]


def test_a_rollout_that_cannot_be_exported_is_disabled_there_and_says_why() -> None:
    broken = flag(LINE, variants={"a": 1, "b": 2})
    sent = definition_of(broken, prepare(broken))
    assert json.loads("{" + sent.text + "}")[broken.key]["state"] == "DISABLED"
    assert sent.problem.startswith("The rollout is invalid: flag.rollout.from is 'off'")


def test_rules_stay_small() -> None:
    many = rollout(*(Point(START + n * 40 * DAY, n * 2_000) for n in range(50)), linear=True)
    size = len(json.dumps(write([Flag(**_fields(many))])))
    assert size < 65_536


def _fields(of: Any) -> dict[str, Any]:
    made = flag(of)
    return {"key": made.key, "status": made.status, "rollout": made.rollout}
