"""A flag as a definition in flagd's JSON, for providers that evaluate in process.

A provider that rejects one definition rejects the whole set, so a flag that it could not read is sent as disabled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from flagsvc.core.evaluation import TOO_LARGE, Prepared, has_rule
from flagsvc.core.flagd.prerequisites import NOT_EXPORTED, Member, NotExported, condition_of, member_of, valued
from flagsvc.core.flagd.references import NotInlined, inlined, refs
from flagsvc.core.flagd.rules import whole_rule
from flagsvc.core.flagd.sets import NAMED_SETS, NamedSets
from flagsvc.core.flagd.writing import definition
from flagsvc.core.json_values import NotJson, compact, strict_loads, with_whole_numbers
from flagsvc.core.model import Flag, JsonValue, Status

MAX_INLINED_BYTES = 1_048_576
"""Maximum size of a rule, in characters of JSON, after its references are inlined."""


class Definition(NamedTuple):
    """One member of `flags` as JSON text, and the problem for which it is sent as disabled (empty without one)."""

    text: str
    problem: str


Family = Mapping[str, tuple[Flag, Prepared]]
"""A flag and those that it depends on, by key, as of one moment."""


def definition_of(
    flag: Flag, prepared: Prepared, sets: NamedSets = NAMED_SETS, family: Family | None = None
) -> Definition:
    """Return a flag's definition. A broken flag is DISABLED and has no rule, so callers use their defaults.

    `family`: given for a flag with prerequisites.
    """
    if prepared.fixed is TOO_LARGE:
        flag = Flag(key=flag.key, flag_set=flag.flag_set, revision=flag.revision)  # without the values
    known = definition(flag)
    variants = {name: with_whole_numbers(value) for name, value in flag.effective_variants.items()}
    default = known.get("defaultVariant", "")
    problem, targeting, condition = _problem(flag, prepared), None, None
    not_exported: dict[str, JsonValue] = {}
    if not problem and (prepared.prerequisites or has_rule(flag)):
        try:
            condition = condition_of(flag.key, _members(family or {})) if prepared.prerequisites else None
            targeting = _targeting(flag, condition)
        except NotExported as error:
            problem = f"The flag cannot be exported: {error}"
            not_exported = {NOT_EXPORTED: str(error)}
        except (NotJson, NotInlined) as error:
            problem = f"The targeting rule cannot be exported: {error}"
    fields: dict[str, JsonValue] = {
        "state": "DISABLED" if problem or condition is False else known["state"],
        "defaultVariant": default if default in variants else "",
        "variants": variants,
        "source": flag.flag_set,
    }
    own = {n: v for n, v in sets.metadata_of(flag).items() if n and isinstance(v, str | int | float)}
    if metadata := {**own, **not_exported}:
        fields["metadata"] = metadata
    text = f"{compact(flag.key)}:{compact(fields)[:-1]}"
    text += "}" if targeting is None else f',"targeting":{targeting}}}'
    # An unpaired surrogate cannot be encoded as UTF-8, but its escaped form is valid JSON.
    return Definition(text.encode(errors="backslashreplace").decode(), problem)


def _problem(flag: Flag, prepared: Prepared) -> str:
    """Return why a flag cannot be evaluated; empty if it can."""
    if flag.problem or (prepared.fixed is not None and prepared.fixed.error_code is not None):
        return flag.problem or (prepared.fixed.message if prepared.fixed else "")
    if flag.default_variant and flag.default_variant not in flag.effective_variants:
        return "The default variant is not one of the flag's variants"
    return ""


def _members(family: Family) -> dict[str, Member]:
    """Return what conditions are made of. Raises NotExported."""
    return {key: member_of(flag, prepared) for key, (flag, prepared) in family.items()}


def _targeting(flag: Flag, condition: JsonValue) -> str:
    """Return the rule as JSON with its references inlined. Raises NotJson or NotInlined.

    `condition`: under which the prerequisites are met; None for no prerequisites.
    """
    rule = whole_rule(flag) if has_rule(flag) else None
    if condition is not None:
        default = None if flag.status is Status.BETA else flag.effective_default
        rule = {"if": [condition, valued(rule, default)]}
    if not flag.evaluators:
        return compact(rule)
    evaluators = {name: strict_loads(text) for name, text in flag.evaluators.items()}
    if _inlined_size(rule, evaluators, {}) > MAX_INLINED_BYTES:  # checked before anything that large is built
        raise NotInlined(f"more than {MAX_INLINED_BYTES} characters with its references inlined")
    return compact(inlined(rule, evaluators))


def _inlined_size(rule: JsonValue, evaluators: Mapping[str, JsonValue], known: dict[str, int]) -> int:
    """Return about how many characters a rule has with its references inlined; `known` holds evaluators' sizes."""
    size = len(compact(rule))
    for name, _ in refs(rule):
        if name in evaluators and name not in known:
            known[name] = 0  # inlining reports a circular reference
            known[name] = _inlined_size(evaluators[name], evaluators, known)
        size += known.get(name, 0)
    return size
