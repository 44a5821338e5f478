"""Writes flags as flagd's flag configuration. Reading it back results in flags that evaluate the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..bucketing import has_split
from ..errors import InvalidRequest, Violation, short_repr
from ..evaluation import has_rule, needs_more
from ..json_values import NotJson, compact, strict_loads
from ..model import DEFAULT_BUCKETING, DEFAULT_SET, NO_VARIANTS, Flag, JsonValue, Status
from .reading import BUCKETING_NAME, EXPOSURE_NAME, SET_NAME
from .references import NotInlined, add_referred, inlined, refs
from .rules import whole_rule

SCHEMA = "https://flagd.dev/schema/v0/flags.json"


NO_PREREQUISITES = "it has prerequisites, which a file of flagd cannot have"


class Rules(NamedTuple):
    """A flag's parsed targeting rule (None: it has none) and the evaluators that it uses."""

    rule: JsonValue
    evaluators: Mapping[str, JsonValue]


def write(flags: Sequence[Flag], flag_set: str = DEFAULT_SET) -> dict[str, Any]:
    """Return the configuration of one set's flags. Raises InvalidRequest naming the flags that flagd could not read."""
    rules, broken = {}, []
    for flag in flags:
        try:
            rules[flag.key] = rules_of(flag)
        except (NotJson, NotInlined) as error:
            broken.append(Violation(f"flag {short_repr(flag.key)}", f"a definition that flagd cannot read: {error}"))
    if broken:
        raise InvalidRequest(broken)
    shared = _shared_evaluators(rules.values())
    used: dict[str, JsonValue] = {}
    written = {flag.key: _with_rule(flag, rules[flag.key], shared, used) for flag in flags}
    document: dict[str, Any] = {"$schema": SCHEMA}
    metadata = _hoisted(flags, flag_set)
    if named := {**metadata, **_bucketing_of(flags)}:
        document["metadata"] = named
    for flag in flags:
        own = {
            n: v for n, v in metadata_in_file(flag).items() if n not in metadata or compact(metadata[n]) != compact(v)
        }
        if own:
            written[flag.key]["metadata"] = own
    document["flags"] = written
    if used:
        document["$evaluators"] = used
    return document


def definition(flag: Flag) -> dict[str, Any]:
    """Return a flag in flagd's format, without targeting and metadata."""
    state, default = flag.status, flag.effective_default
    if state is Status.BETA and has_rule(flag):
        state, default = Status.ENABLED, None  # BETA is on only where targeting matches.
    if flag.prerequisites:
        default = None  # its rule gives it where they are met
    fields: dict[str, Any] = {"state": "ENABLED" if state is Status.ENABLED else "DISABLED"}
    if flag.description is not None:
        fields["description"] = flag.description
    fields["variants"] = dict(flag.effective_variants) if flag.variants != NO_VARIANTS else {}
    if default is not None:
        fields["defaultVariant"] = default
    return fields


def metadata_of(flag: Flag) -> dict[str, JsonValue]:
    """Return a flag's metadata with its set's name, which flagd reads there, unless it is the default set."""
    others = {name: value for name, value in flag.metadata.items() if name != SET_NAME}
    return others if flag.flag_set == DEFAULT_SET else {SET_NAME: flag.flag_set, **others}


def metadata_in_file(flag: Flag) -> dict[str, JsonValue]:
    """Return a flag's metadata as a file has it, with its exposure unless that is the default."""
    return {**metadata_of(flag), **({EXPOSURE_NAME: flag.exposure.value} if flag.is_public else {})}


def rules_of(flag: Flag) -> Rules:
    """Return a flag's parsed rules. Raises NotJson or NotInlined for rules that are not JSON or refer to themselves."""
    if flag.unknown is not None:
        raise NotJson(needs_more(flag.unknown))
    if flag.problem:
        raise NotJson(flag.problem)
    if flag.prerequisites:
        raise NotJson(NO_PREREQUISITES)
    if not has_rule(flag):
        return Rules(None, {})
    rule = whole_rule(flag)
    used: dict[str, JsonValue] = {}

    add_referred(rule, used, lambda name: strict_loads(flag.evaluators[name]), flag.evaluators)
    inlined(rule, used)
    return Rules(rule, used)


def _with_rule(flag: Flag, rules: Rules, shared: Mapping[str, JsonValue], used: dict[str, JsonValue]) -> dict[str, Any]:
    """Return a flag's definition with targeting. Evaluators that the rule still refers to are added to `used`."""
    written = definition(flag)
    if rules.rule is None:
        return written
    written["targeting"] = inlined(rules.rule, rules.evaluators, _kept(rules.evaluators, shared))
    add_referred(written["targeting"], used, shared.__getitem__, shared)
    return written


def _shared_evaluators(all_rules: Any) -> dict[str, JsonValue]:
    """Return one rule for each evaluator name: where flags have different rules under one name, the most common."""
    texts: dict[str, Counter[str]] = {}
    rules: dict[tuple[str, str], JsonValue] = {}
    for each in all_rules:
        for name, rule in each.evaluators.items():
            text = _canonical(rule)
            texts.setdefault(name, Counter())[text] += 1
            rules.setdefault((name, text), rule)
    return {name: rules[name, counter.most_common(1)[0][0]] for name, counter in texts.items()}


def _kept(evaluators: Mapping[str, JsonValue], shared: Mapping[str, JsonValue]) -> frozenset[str]:
    """Return the names of a flag's evaluators that are the same as the shared ones, as are all they refer to."""
    kept = {name for name, rule in evaluators.items() if _canonical(rule) == _canonical(shared[name])}
    while differing := {name for name in kept if any(other not in kept for other, _ in refs(evaluators[name]))}:
        kept -= differing
    return frozenset(kept)


def _hoisted(flags: Sequence[Flag], flag_set: str) -> dict[str, JsonValue]:
    """Return the metadata fields that all flags have, each with its most common value."""
    common: dict[str, JsonValue] = {} if flag_set == DEFAULT_SET else {SET_NAME: flag_set}
    of_flags = [metadata_in_file(flag) for flag in flags]
    for name in of_flags[0] if of_flags else ():
        if name not in common and all(name in metadata for metadata in of_flags):
            counts = Counter(compact(metadata[name]) for metadata in of_flags)
            common[name] = json.loads(counts.most_common(1)[0][0])
    return common


def _bucketing_of(flags: Sequence[Flag]) -> dict[str, JsonValue]:
    """Return what the file's metadata says of how its splits choose: nothing where it is as in flagd's daemon."""
    versions = {flag.bucketing for flag in flags if has_split(flag)}
    if len(versions) > 1:
        wanted = "one for all flags of a file: end the change of it that was interrupted, by flagsvc bucketing --force"
        raise InvalidRequest([Violation("the bucketing", f"{sorted(versions)}", wanted)])
    return {} if versions <= {DEFAULT_BUCKETING} else {BUCKETING_NAME: versions.pop()}


def _canonical(rule: JsonValue) -> str:
    return json.dumps(rule, sort_keys=True)
