"""Exported flags with prerequisites: flagd's unmodified engines give everybody the variant that flagsvc gives."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import GeneralError

from flagsvc.api.flagd.definitions import Definition, definition_of
from flagsvc.core.evaluation import prepare
from flagsvc.core.family import evaluate_family
from flagsvc.core.flagd.prerequisites import MAX_CHARACTERS, NOT_EXPORTED
from flagsvc.core.model import Flag, Status
from tests.dependencies.graphs import CONTEXTS, NOW, world
from tests.dependencies.test_family import on
from tests.providers import node_app
from tests.sizes import examples

CASES = 60
PEOPLE: list[dict[str, Any]] = [
    {"targetingKey": f"user-{n}", "plan": ("pro", "free")[n % 2], "n": n} for n in range(12)
]
ASKED = [*map(dict, CONTEXTS), *PEOPLE]
KEYED = {"cat": [{"var": "$flagd.flagKey"}, {"var": "targetingKey"}]}


def split(text: Any = KEYED, **weights: int) -> dict[str, Any]:
    return {"fractional": [text, *([name, weight] for name, weight in weights.items())]}


def ruled(key: str, rule: Any, *parents: str, **fields: Any) -> Flag:
    return on(key, *parents, targeting=json.dumps(rule), **fields)


FIELD = {"if": [{"in": [{"var": "plan"}, ["pro", {"var": ["$flagd.flagKey", "x"]}]]}, None, split(on=1, off=2)]}
BY_HAND = [
    ruled("half", split(on=1, off=1)),
    ruled("half-off", split(on=1, off=1), default_variant="off"),
    replace(ruled("half-beta", split(on=1, off=1)), status=Status.BETA),
    ruled("field", FIELD),
    ruled("own-split", {"fractional": [["on", 50], ["off", 50]]}, "half", "half-off"),
    ruled("own-null", {"if": [{"==": [{"var": "plan"}, "pro"]}, "off"]}, "field"),
    replace(ruled("own-beta", {"if": [{"==": [{"var": "plan"}, "pro"]}, "on"]}, "half-beta"), status=Status.BETA),
    ruled("own-any", {"var": "plan"}, "half", variants={"pro": 1, "free": 2, "on": 3}, default_variant="on"),
    replace(on("wants-off"), prerequisites=[{"flagKey": "field", "variants": ["off"]}]),
    on("below", "own-split", "half"),
    on("never", "none"),
]


def exported(flags: Mapping[str, Flag]) -> dict[str, Definition]:
    family = {key: (flag, prepare(flag)) for key, flag in flags.items()}
    return {key: definition_of(flag, prepared, family=family) for key, (flag, prepared) in family.items()}


def ours(flags: Mapping[str, Flag], key: str, bucketing: int) -> list[str | None]:
    prepared = {name: prepare(replace(flag, bucketing=bucketing)) for name, flag in flags.items()}
    return [evaluate_family(key, prepared.get, context, NOW).variant for context in ASKED]


class Worlds:
    """Flag sets, and all their flags as one set for flagd's engines, under keys that no two sets share."""

    def __init__(self) -> None:
        self.sets = [{flag.key: flag for flag in BY_HAND}]
        self.sets += [world(seed).flags for seed in range(examples(CASES))]
        self.members: dict[str, Any] = {}
        self.asked: list[tuple[str, Mapping[str, Flag], str]] = []
        self.refused: list[str] = []
        for number, flags in enumerate(self.sets):
            for key, sent in exported(flags).items():
                name = key if number == 0 else f"{number}-{key}"
                self.members[name] = json.loads("{" + sent.text + "}")[key]
                if not flags[key].prerequisites:
                    continue
                if NOT_EXPORTED in self.members[name].get("metadata", {}):
                    self.refused.append(sent.problem)
                elif not sent.problem:
                    self.asked.append((name, flags, key))

    def differences(self, bucketing: int, found: Mapping[str, list[str | None]]) -> list[Any]:
        return [
            (name, context, expected, variant)
            for name, flags, key in self.asked
            for context, expected, variant in zip(ASKED, ours(flags, key, bucketing), found[name], strict=True)
            # Engines join a missing field to a text in different ways, in the parent as well.
            if expected != variant and (flags is not self.sets[0] or "targetingKey" in context)
        ]


@pytest.fixture(scope="module")
def worlds() -> Worlds:
    return Worlds()


@pytest.fixture
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("quiet")
def test_flagds_engine_in_python(worlds: Worlds) -> None:
    core = FlagdCore()
    core.set_flags(json.dumps({"flags": worlds.members}))

    def variant(name: str, context: dict[str, Any]) -> str | None:
        fields = dict(context)
        asked = EvaluationContext(fields.pop("targetingKey", None), fields)
        resolve: Any = core.resolve_integer_value if name == "own-any" else core.resolve_boolean_value
        try:
            found: str | None = resolve(name, 0 if name == "own-any" else False, asked).variant
        except GeneralError:  # the flag's own rule has chosen what is no variant: callers use their defaults
            return None
        return found

    found = {name: [variant(name, context) for context in ASKED] for name, _, _ in worlds.asked}
    assert worlds.differences(3, found) == []
    assert {variant for each in found.values() for variant in each} >= {None, "on", "off", "pro"}


def test_flagds_engine_in_node(worlds: Worlds) -> None:
    node_app.install()
    flags = {name: each for name, each in worlds.members.items() if name != "own-any"}
    asked = json.dumps({"document": {"flags": flags}, "moments": [NOW], "contexts": ASKED})
    command = [str(Path(sys.executable).with_name("node")), "moments.mjs"]
    done = subprocess.run(
        command, cwd=node_app.FOLDER, input=asked, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = {name: rows[0] for name, rows in json.loads(done.stdout).items()}
    worlds.asked = [each for each in worlds.asked if each[0] != "own-any"]
    assert worlds.differences(2, found) == []


def test_what_is_refused_is_disabled_and_says_why(worlds: Worlds) -> None:
    assert len(worlds.asked) > examples(CASES) < len(worlds.refused)
    texts = "\n".join(worlds.refused)
    for part in ("depend on themselves", "the rule may choose '7', which has no value", "of its prerequisite"):
        assert part in texts


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({"fractional": [["on", 1], ["off", 1]]}, "a split does not name the text that it hashes"),
        (split({"var": "email"}, on=1, off=1), "a split does not name the text that it hashes"),
        ({"if": [{"some": [{"var": "l"}, {"fractional": [["on", 1]]}]}, "on"]}, "a split does not name the text"),
        ({"if": [{"var": ""}, "on"]}, "reads the whole context"),
        ({"if": [{"var": {"var": "x"}}, "on"]}, "fields that are not known before"),
        ({"if": [{"var": ["a", {"var": "$flagd"}]}, "on"]}, "reads the whole context"),
        ({"var": "plan"}, "choose otherwise than by conditions, splits and names"),
        ({"if": [True, "none"]}, "the rule may choose 'none', which has no value"),
        (split(on=1, none=1), "the rule may choose 'none', which has no value"),
    ],
)
def test_a_rule_that_may_decide_otherwise_elsewhere_is_not_written(rule: Any, why: str) -> None:
    flags = {each.key: each for each in (on("child", "parent"), ruled("parent", rule))}
    sent = exported(flags)["child"]
    member = json.loads("{" + sent.text + "}")["child"]
    assert why in sent.problem
    assert (member["state"], why in member["metadata"][NOT_EXPORTED], "targeting" in member) == (
        "DISABLED",
        True,
        False,
    )


def test_a_flag_below_a_flag_in_error_and_one_whose_rule_would_be_too_long_are_not_written() -> None:
    broken = {each.key: each for each in (on("child", "parent"), on("parent", targeting="{"))}
    assert "of its prerequisite 'parent', the evaluation is an error" in exported(broken)["child"].problem
    layers = {"0": ruled("0", {"if": [{"==": [{"var": "plan"}, "x" * 100]}, "on", "off"]})}
    for n in range(1, 10):  # each layer has all of the one above it, many times
        layers |= {f"{n}": on(f"{n}", f"{n - 1}", f"{n - 1}b"), f"{n}b": on(f"{n}b", f"{n - 1}", f"{n - 1}b")}
    layers["0b"] = ruled("0b", {"if": [{"==": [{"var": "plan"}, "y" * 100]}, "on", "off"]})
    sizes = [len(exported(layers)[str(n)].text) for n in (1, 2, 3)]
    assert sizes[0] < sizes[1] < sizes[2] < MAX_CHARACTERS
    assert "characters as a rule" in exported(layers)["9"].problem
