"""Random sets of flags that depend on one another and share segments, and a naive oracle of what they evaluate to."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from flagsvc.core.evaluation import ErrorCode, Outcome, Prepared, Reason, prepare
from flagsvc.core.family import evaluate_family
from flagsvc.core.model import Flag, JsonValue, Status
from flagsvc.core.segments import further, segments_of, stamp

MANY = range(int(os.environ.get("GRAPHS_SEED", "0")), int(os.environ.get("GRAPHS_SEED", "0")) + 20_000)
"""The seeds of the long tests."""
NOW = 1_800_000_000.0
KEYS = tuple("abcdefg")
NAMES = ("red", "green", "blue", "grey")
STATUSES = (*[Status.ENABLED] * 12, Status.BETA, Status.BETA, Status.DISABLED)
CONTEXTS: tuple[Mapping[str, JsonValue], ...] = (
    {},
    {"targetingKey": "user-1", "plan": "pro", "n": 1},
    {"targetingKey": "user-2", "plan": "free", "n": 5},
    {"plan": "pro", "n": 9},
)


class World(NamedTuple):
    """A flag set: its flags by key, and the rules of its segments by name."""

    flags: dict[str, Flag]
    segments: dict[str, str]
    alone: dict[str, Prepared]
    """Each flag without prerequisites, once the oracle has compiled it."""


def world(seed: int) -> World:
    """Return a random flag set. Some flags name what does not exist, are in cycles, or are malformed."""
    dice = random.Random(seed)
    there = [name for name in NAMES if dice.random() < 0.8]
    segments = {name: json.dumps(_condition(dice, there[index + 1 :])) for index, name in enumerate(there)}
    acyclic = dice.random() < 0.7
    flags = {}
    for index, key in enumerate(KEYS):
        others = KEYS[:index] if acyclic else KEYS
        wanted = [(*others, "none") if dice.random() < 0.1 else others for _ in range(dice.choice((0, 0, 1, 1, 2, 3)))]
        parents = dict.fromkeys(dice.choice(each) for each in wanted if each)
        prerequisites: Any = [{"flagKey": each, "variants": _variants(dice)} for each in parents]
        if dice.random() < 0.03:
            prerequisites = [{"flagKey": "a"}]
        flags[key] = Flag(
            key=key,
            status=dice.choice(STATUSES),
            default_variant=dice.choice((None, "on", "off")),
            targeting=json.dumps(_targeting(dice, list(segments))) if dice.random() < 0.7 else None,
            prerequisites=prerequisites or None,
        )
    return World({key: stamped(flag, segments) for key, flag in flags.items()}, segments, {})


def stamped(flag: Flag, segments: Mapping[str, str]) -> Flag:
    """Return a flag with its segments, as a store writes them."""
    found: dict[str, str] = {}
    wanted = segments_of(flag)
    while wanted:
        found |= {name: segments[name] for name in wanted}
        wanted = further(found, wanted)
    return stamp(flag, found)


def _variants(dice: random.Random) -> list[str]:
    return dice.choice((["on"], ["off"], ["on", "off"]))


def _targeting(dice: random.Random, names: list[str]) -> JsonValue:
    split = {"fractional": [{"var": "targetingKey"}, ["on", 1], ["off", 1]]}
    return {"if": [_condition(dice, names), dice.choice(("on", "off", None, split)), dice.choice((None, "on", 7))]}


def _condition(dice: random.Random, names: Any) -> JsonValue:
    kind = dice.randrange(5)
    if names and kind < 3:
        reference: JsonValue = {"$ref": f"segment:{dice.choice(list(names))}"} if kind else {"var": "plan"}
        return {dice.choice(("and", "or")): [reference, _condition(dice, ())]}
    return {"==": [{"var": "plan"}, "pro"]} if kind % 2 else {">": [{"var": "n"}, dice.randrange(8)]}


def ours(flags: Mapping[str, Flag], key: str, context: Mapping[str, JsonValue]) -> Outcome:
    """Evaluate as replicas do."""
    prepared = {each: prepare(flag) for each, flag in flags.items()}
    return evaluate_family(key, prepared.get, context, NOW)


class Broken(Exception):
    """A flag depends on itself, or on too many others."""


def oracle(one: World, key: str, context: Mapping[str, JsonValue]) -> tuple[Reason, str | None, ErrorCode | None, str]:
    """Return reason, variant, error code and failed prerequisite: by recursion, without memory, segments in place."""
    try:
        _walk(one, key, ())
    except Broken:
        return Reason.ERROR, None, ErrorCode.GENERAL, ""
    return _evaluated(one, key, context)


def _walk(one: World, key: str, above: tuple[str, ...]) -> None:
    if key in above or len(above) > 10:
        raise Broken
    for parent, _ in _parents(one, key):
        _walk(one, parent, (*above, key))


def _parents(one: World, key: str) -> Iterator[tuple[str, list[str]]]:
    flag = one.flags.get(key)
    if flag is None:
        return
    fixed = _alone(one, flag).fixed
    if fixed is not None and fixed.reason not in (Reason.STATIC, Reason.DEFAULT):
        return
    yield from ((each["flagKey"], each["variants"]) for each in flag.prerequisites or ())


def _alone(one: World, flag: Flag) -> Prepared:
    """Prepare a flag without prerequisites, with the text of each segment in the place of its reference."""
    if flag.key not in one.alone:
        one.alone[flag.key] = _compiled(one, flag)
    return one.alone[flag.key]


def _compiled(one: World, flag: Flag) -> Prepared:
    if any(each.keys() != {"flagKey", "variants"} for each in flag.prerequisites or ()):
        return prepare(flag)
    text = flag.targeting
    while text is not None and "$ref" in text:
        for name, rule in one.segments.items():
            text = text.replace(json.dumps({"$ref": f"segment:{name}"}), rule)
    return prepare(replace(flag, targeting=text, evaluators={}, prerequisites=None))


def _evaluated(
    one: World, key: str, context: Mapping[str, JsonValue]
) -> tuple[Reason, str | None, ErrorCode | None, str]:
    flag = one.flags.get(key)
    if flag is None:
        return Reason.ERROR, None, ErrorCode.FLAG_NOT_FOUND, ""
    for parent, variants in _parents(one, key):
        _, variant, code, _ = _evaluated(one, parent, context)
        if code not in (None, ErrorCode.FLAG_NOT_FOUND):
            return Reason.ERROR, None, ErrorCode.GENERAL, ""
        if code is not None or variant is None or variant not in variants:
            return Reason.DISABLED, None, None, parent
    outcome = _alone(one, flag).evaluate(context, NOW)
    if flag.prerequisites and outcome.reason is Reason.STATIC:  # callers would keep it for every context
        return Reason.DEFAULT, outcome.variant, None, ""
    return outcome.reason, outcome.variant, outcome.error_code, ""


def seen(outcome: Outcome) -> tuple[Reason, str | None, ErrorCode | None, str]:
    """Return of an outcome what the oracle says."""
    return outcome.reason, outcome.variant, outcome.error_code, outcome.failed_prerequisite or ""
