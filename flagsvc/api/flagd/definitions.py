"""A flag as a definition in flagd's JSON, for providers that evaluate by themselves: nothing that one could reject."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from flagsvc.core.evaluation import Prepared, has_targeting
from flagsvc.core.flagd.references import NotInlined, inlined, refs
from flagsvc.core.flagd.writing import definition, metadata_of
from flagsvc.core.json_values import NotJson, compact, strict_loads
from flagsvc.core.model import Flag, JsonValue

MAX_INLINED_BYTES = 1_048_576
"""Most that a rule may grow to with what it refers to."""


class Definition(NamedTuple):
    """One member of `flags` as JSON text, and why it is told as disabled although it may not be (else empty)."""

    text: str
    problem: str


def definition_of(flag: Flag, prepared: Prepared) -> Definition:
    """Give a flag's definition. A broken one is DISABLED and without rule, so that callers keep their defaults."""
    known = definition(flag)
    variants, default = known["variants"], known.get("defaultVariant", "")
    problem, targeting = _problem(flag, prepared), None
    if not problem and has_targeting(flag):
        try:
            targeting = _targeting(flag)
        except (NotJson, NotInlined) as error:
            problem = f"The targeting rule cannot be handed out: {error}"
    fields: dict[str, JsonValue] = {
        "state": "DISABLED" if problem else known["state"],
        "defaultVariant": default if default in variants else "",
        "variants": variants,
        "source": flag.flag_set,
    }
    named = metadata_of(flag) | dict(flag.metadata)
    if metadata := {n: v for n, v in named.items() if n and isinstance(v, str | int | float)}:
        fields["metadata"] = metadata
    text = f"{compact(flag.key)}:{compact(fields)[:-1]}"
    text += "}" if targeting is None else f',"targeting":{targeting}}}'
    # Half a surrogate pair has no UTF-8 but is JSON when escaped.
    return Definition(text.encode(errors="backslashreplace").decode(), problem)


def _problem(flag: Flag, prepared: Prepared) -> str:
    """Say what is wrong with a flag; empty when it can be evaluated."""
    if flag.problem or (prepared.fixed is not None and prepared.fixed.error_code is not None):
        return flag.problem or (prepared.fixed.message if prepared.fixed else "")
    if flag.default_variant and flag.default_variant not in flag.effective_variants:
        return "The default variant is none of the flag's variants"
    return ""


def _targeting(flag: Flag) -> str:
    """Give the rule as JSON with what it refers to in it. Raises NotJson or NotInlined."""
    rule = strict_loads(flag.targeting or "")
    if not flag.evaluators:
        return compact(rule)
    evaluators = {name: strict_loads(text) for name, text in flag.evaluators.items()}
    if _inlined_size(rule, evaluators, {}) > MAX_INLINED_BYTES:  # told before anything of that size is made
        raise NotInlined(f"more than {MAX_INLINED_BYTES} characters with what it refers to")
    return compact(inlined(rule, evaluators))


def _inlined_size(rule: JsonValue, evaluators: Mapping[str, JsonValue], known: dict[str, int]) -> int:
    """Give about how many characters a rule has with what it refers to in it; `known` has those of evaluators."""
    size = len(compact(rule))
    for name, _ in refs(rule):
        if name in evaluators and name not in known:
            known[name] = 0  # a circle is told when it is inlined
            known[name] = _inlined_size(evaluators[name], evaluators, known)
        size += known.get(name, 0)
    return size
