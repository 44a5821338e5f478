"""Flags written as flagd's flag configuration, so that reading it back gives flags of the same meaning."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import InvalidRequest, Violation, shown
from ..evaluation import has_targeting
from ..json_values import NotJson, compact, strict_loads
from ..model import DEFAULT_SET, Flag, JsonValue, Status
from .reading import SET_NAME
from .references import NotInlined, inlined, refs

SCHEMA = "https://flagd.dev/schema/v0/flags.json"


class Rules(NamedTuple):
    """A flag's rule (None: it has none) and the evaluators that it uses, parsed."""

    rule: JsonValue
    evaluators: Mapping[str, JsonValue]


def write(flags: Sequence[Flag], flag_set: str = DEFAULT_SET) -> dict[str, Any]:
    """Give the configuration of one set's flags. Raises InvalidRequest for those that no flagd could read."""
    rules, broken = {}, []
    for flag in flags:
        try:
            rules[flag.key] = rules_of(flag)
        except (NotJson, NotInlined) as error:
            broken.append(Violation(f"flag {shown(flag.key)}", f"a definition that flagd cannot read: {error}"))
    if broken:
        raise InvalidRequest(broken)
    shared = _shared_evaluators(rules.values())
    used: dict[str, JsonValue] = {}
    written = {flag.key: _with_rule(flag, rules[flag.key], shared, used) for flag in flags}
    document: dict[str, Any] = {"$schema": SCHEMA}
    if metadata := _hoisted(flags, flag_set):
        document["metadata"] = metadata
    for flag in flags:
        own = {name: value for name, value in metadata_of(flag).items() if not _same(metadata, name, value)}
        if own:
            written[flag.key]["metadata"] = own
    document["flags"] = written
    if used:
        document["$evaluators"] = used
    return document


def definition(flag: Flag) -> dict[str, Any]:
    """Give what flagd knows of a flag, but for its rule and metadata."""
    state, default = flag.status, flag.effective_default
    if state is Status.BETA and has_targeting(flag):
        state, default = Status.ENABLED, None  # on only where targeting matches
    known: dict[str, Any] = {"state": "ENABLED" if state is Status.ENABLED else "DISABLED"}
    if flag.description is not None:
        known["description"] = flag.description
    known["variants"] = dict(flag.effective_variants)
    if default is not None:
        known["defaultVariant"] = default
    return known


def metadata_of(flag: Flag) -> dict[str, JsonValue]:
    """Give a flag's metadata, in which flagd looks for its set."""
    others = {name: value for name, value in flag.metadata.items() if name != SET_NAME}
    return others if flag.flag_set == DEFAULT_SET else {SET_NAME: flag.flag_set, **others}


def rules_of(flag: Flag) -> Rules:
    """Parse a flag's rules. Raises NotJson or NotInlined when they are not what may be stored."""
    if flag.problem:
        raise NotJson(flag.problem)
    if not has_targeting(flag):
        return Rules(None, {})
    rule = strict_loads(flag.targeting or "")
    used: dict[str, JsonValue] = {}
    waiting = [rule]
    while waiting:
        for name, _ in refs(waiting.pop()):
            if name not in flag.evaluators:
                raise NotInlined(f"its targeting refers to {name!r}, which is none of its evaluators")
            if name not in used:
                used[name] = strict_loads(flag.evaluators[name])
                waiting.append(used[name])
    inlined(rule, used)
    return Rules(rule, used)


def _with_rule(flag: Flag, rules: Rules, shared: Mapping[str, JsonValue], used: dict[str, JsonValue]) -> dict[str, Any]:
    """Give a flag's definition; evaluators that its rule still refers to are noted in `used`."""
    written = definition(flag)
    if rules.rule is None:
        return written
    written["targeting"] = inlined(rules.rule, rules.evaluators, _kept(rules.evaluators, shared))
    waiting = [written["targeting"]]
    while waiting:
        for name, _ in refs(waiting.pop()):
            if name not in used:
                used[name] = shared[name]
                waiting.append(shared[name])
    return written


def _shared_evaluators(all_rules: Any) -> dict[str, JsonValue]:
    """Give each evaluator's rule; where flags hold different ones under one name, the one that most of them hold."""
    texts: dict[str, Counter[str]] = {}
    rules: dict[tuple[str, str], JsonValue] = {}
    for each in all_rules:
        for name, rule in each.evaluators.items():
            text = _canonical(rule)
            texts.setdefault(name, Counter())[text] += 1
            rules.setdefault((name, text), rule)
    return {name: rules[name, counter.most_common(1)[0][0]] for name, counter in texts.items()}


def _kept(evaluators: Mapping[str, JsonValue], shared: Mapping[str, JsonValue]) -> frozenset[str]:
    """Give the evaluators of a flag that mean the same in the file: they and all that they refer to."""
    kept = {name for name, rule in evaluators.items() if _canonical(rule) == _canonical(shared[name])}
    while lost := {name for name in kept if any(other not in kept for other, _ in refs(evaluators[name]))}:
        kept -= lost
    return frozenset(kept)


def _hoisted(flags: Sequence[Flag], flag_set: str) -> dict[str, JsonValue]:
    """Give the metadata that every flag has, each with its most common value."""
    common: dict[str, JsonValue] = {} if flag_set == DEFAULT_SET else {SET_NAME: flag_set}
    every = [metadata_of(flag) for flag in flags]
    for name in every[0] if every else ():
        if name not in common and all(name in each for each in every):
            counted = Counter(compact(each[name]) for each in every)
            common[name] = json.loads(counted.most_common(1)[0][0])
    return common


def _same(metadata: Mapping[str, JsonValue], name: str, value: JsonValue) -> bool:
    return name in metadata and compact(metadata[name]) == compact(value)


def _canonical(rule: JsonValue) -> str:
    return json.dumps(rule, sort_keys=True)
