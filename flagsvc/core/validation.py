"""Validation of flags, keys and texts. All limits are defined here; only the protos' comments repeat them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from . import json_values, prerequisites, rollouts, shown_text
from .errors import InvalidRequest, Violation, invalid, short_repr
from .evaluation import has_targeting, variant_name
from .flagd.references import refs
from .json_values import NotJson, compact, json_path, strict_loads
from .model import DEFAULT_SET, NO_VARIANTS, Flag, FlagId, JsonValue
from .segment_names import PREFIX
from .sizes import flag_bytes, json_bytes
from .targeting import MAX_RULE_BYTES, Effect, RuleProblem, problems_of

MAX_KEY = 255
MAX_DESCRIPTION = 4_096
MAX_REASON = 1_024
MAX_VALUE_BYTES = 65_536
"""Size of a variant's value and of `config`, as JSON."""
MAX_METADATA_BYTES = 16_384
MAX_FLAG_BYTES = 524_288
MAX_VARIANTS = 100
MAX_METADATA = 100
MAX_EVALUATORS = 100
MAX_CONTEXT_BYTES = 65_536
MAX_CONTEXT_VALUES = 5_000
"""Fields and list elements of an evaluation context, at all depths: converting each takes time."""
SMALLEST_VALUE = 4
"""Bytes of the smallest element of a list in a protobuf message; in JSON it takes half of that."""
MAX_BATCH = 1_000
SORT_ORDERS = range(-(2**31), 2**31)
_ETAG = re.compile(r'"?(\d{1,19})"?')


@lru_cache(maxsize=8_192)  # Calls repeat the same few keys.
def flag_id(flag_set: str, key: str, field: str = "flag_key") -> FlagId:
    """Return a checked identity. An empty flag set means `default`. Raises InvalidRequest naming `field`."""
    if problem := key_problem(key):
        raise invalid(field, key, problem, "INVALID_FLAG_KEY")
    return FlagId(set_name(flag_set), key)


@lru_cache(maxsize=1_024)
def set_name(flag_set: str) -> str:
    """Return a checked flag set name. An empty one means `default`. Raises InvalidRequest."""
    if flag_set and (problem := key_problem(flag_set)):
        raise invalid("flag_set", flag_set, problem, "INVALID_FLAG_SET")
    return flag_set or DEFAULT_SET


def text(field: str, value: str, limit: int = MAX_KEY) -> str:
    """Return a checked line of text, such as an actor or a reason. `limit` is in characters. Raises InvalidRequest."""
    if len(value) > limit or "\0" in value:
        raise invalid(field, value, f"at most {limit} characters without NUL")
    if wanted := shown_text.problem(value):
        raise invalid(field, value, wanted)
    return value


def etag_revision(etag: str) -> int | None:
    """Return the revision in an etag; None for an empty etag. Raises InvalidRequest."""
    if not etag:
        return None
    match = _ETAG.fullmatch(etag)
    if match is None:
        raise invalid("etag", etag, 'a flag\'s etag, such as "7" in quotes', "INVALID_ETAG")
    return int(match[1])


def validated(flag: Flag) -> Flag:
    """Return the flag with its rules as compact JSON. Raises InvalidRequest with all violations if it is invalid."""
    good, found = examined(flag)
    if found:
        raise InvalidRequest(found)
    return good


def importable(flag: Flag) -> Flag:
    """Return the flag like `validated`, but it may be odd. Raises InvalidRequest with all other violations."""
    good, found = examined(flag)
    if refused := [each for each in found if not each.is_odd]:
        raise InvalidRequest(refused)
    return good


def examined(flag: Flag, *, is_write: bool = True) -> tuple[Flag, list[Violation]]:
    """Return the flag with its rules as compact JSON, as far as they are JSON, and all violations in it.

    The sizes of values and of the whole flag, and the cost of its rule, are limited only for what is written through
    the API or imported (`is_write`): files are served whatever their flags' sizes, up to MAX_SERVED_BYTES.
    """
    rules, rule_violations = _rules(flag, is_write=is_write)
    found = [
        *_text_violations(flag),
        *_config_violations(flag.config),
        *_variant_violations(flag),
        *_metadata_violations(flag.metadata),
        *rule_violations,
        *(rollouts.violations(flag.rollout, flag.effective_variants) if flag.rollout is not None else ()),
        *(prerequisites.violations(flag.prerequisites) if flag.prerequisites else ()),
    ]
    if flag.sort_order not in SORT_ORDERS:
        found.append(Violation("flag.sort_order", short_repr(flag.sort_order), "-2^31 to 2^31-1"))
    if is_write and all(each.is_odd for each in found):
        found += _size_violations(flag)
    if flag.rollout is not None and not any(each.field.startswith(rollouts.FIELD) for each in found):
        rules["rollout"] = rollouts.to_json(rollouts.rollout_of(flag.rollout, flag.effective_variants))
    return replace(flag, **rules), found


Check = Callable[[Flag], Flag]
"""Checks a whole flag: `validated` or `importable`."""


def validated_change(flag: Flag, before: Flag | None = None, check: Check = validated) -> Flag:
    """Return the flag as `check` does. A text that is not as `before` may have no invisible character either."""
    good = check(flag)
    if found := invisible(flag, before):
        raise InvalidRequest(found)
    return good


def oddity(flag: Flag) -> str:
    """Return what is odd in a stored flag, its rules aside; empty if nothing is. It takes microseconds."""
    found = (*_variant_violations(flag), *_metadata_violations(flag.metadata))
    return next((str(each) for each in found if each.is_odd or each.field == "flag.default_variant"), "")


def invisible(flag: Flag, before: Flag | None = None) -> list[Violation]:
    """Return a violation for each text with an invisible character that `before` does not have as well."""
    old = dict(_shown_texts(before)) if before is not None else {}
    return [
        Violation(field, short_repr(text), wanted)
        for field, (text, allowed) in _shown_texts(flag)
        if old.get(field) != (text, allowed) and (wanted := shown_text.problem(text, allowed))
    ]


def _shown_texts(flag: Flag) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield each text that people read, with the invisible characters that it may have."""
    for field in ("key", "flag_set", "name", "category", "icon", "badge", "owner"):
        yield f"flag.{field}", (getattr(flag, field) or "", "")
    yield "flag.description", (flag.description or "", "\n\r\t")
    for field, names in (("variants", flag.variants), ("metadata", flag.metadata), ("evaluators", flag.evaluators)):
        for name in names:
            yield f"flag.{field}[{shown_text.visible(name)}]", (name, "")


def key_problem(key: str) -> str | None:
    """Return what a key, the name of a set or of a variant must be, if it is not; None if it is good."""
    if 1 <= len(key) <= MAX_KEY and not any(unicodedata.category(c) in ("Cc", "Cs") for c in key):
        return None
    wanted = f"1 to {MAX_KEY} characters without control characters"
    return wanted if len(key) > MAX_KEY else ", ".join(filter(None, (wanted, shown_text.problem(key))))


def _text_violations(flag: Flag) -> list[Violation]:
    found = []
    for field, name in (("key", flag.key), ("flag_set", flag.flag_set)):
        if problem := key_problem(name):
            found.append(Violation(f"flag.{field}", short_repr(name), problem))
    limits = {"name": MAX_KEY, "description": MAX_DESCRIPTION, "category": MAX_KEY}
    limits |= {"icon": MAX_KEY, "badge": MAX_KEY, "owner": MAX_KEY}
    for field, limit in limits.items():
        value: str | None = getattr(flag, field)
        if value is not None and (len(value) > limit or "\0" in value or not json_values.is_text(value)):
            wanted = f"at most {limit} characters without NUL and lone surrogates"
            found.append(Violation(f"flag.{field}", short_repr(value), wanted))
    return found


def _config_violations(config: JsonValue) -> list[Violation]:
    if config is None:
        return []
    if not isinstance(config, dict):
        return [Violation("flag.config", short_repr(config), "an object")]
    if problem := json_values.problem(config):
        return [Violation("flag.config", problem, "valid JSON")]
    return []


def _size_violations(flag: Flag) -> list[Violation]:
    """Return which parts of a valid flag are too large, or that all parts together are."""
    parts = [("flag.config", flag.config, MAX_VALUE_BYTES), ("flag.metadata", flag.metadata, MAX_METADATA_BYTES)]
    parts += [(f"flag.variants[{name}]", value, MAX_VALUE_BYTES) for name, value in flag.variants.items()]
    sizes = [(field, json_bytes(value), limit) for field, value, limit in parts if value is not None]
    found = [Violation(field, _bytes(size), _at_most(limit)) for field, size, limit in sizes if size > limit]
    if not found and (size := flag_bytes(flag)) > MAX_FLAG_BYTES:
        found.append(Violation("flag", f"{_bytes(size)} with all values and rules", _at_most(MAX_FLAG_BYTES)))
    return found


def _bytes(size: int) -> str:
    return f"{size} bytes of JSON"


def _at_most(limit: int) -> str:
    return f"at most {limit} bytes"


def _variant_violations(flag: Flag) -> list[Violation]:
    if flag.variants == NO_VARIANTS:
        return [Violation("flag.variants", "empty", "an object with at least one variant", is_odd=True)]
    return _named_variant_violations(flag)


def _named_variant_violations(flag: Flag) -> list[Violation]:
    variants = flag.variants
    found = []
    if len(variants) > MAX_VARIANTS:
        found.append(Violation("flag.variants", f"{len(variants)} variants", f"at most {MAX_VARIANTS}"))
    for name, value in variants.items():
        field = f"flag.variants[{name}]"
        if problem := key_problem(name):
            found.append(Violation(field, short_repr(name), f"named with {problem}"))
        elif problem := json_values.problem(value):
            found.append(Violation(field, problem, "valid JSON"))
        elif isinstance(value, dict) and json_values.has_more_values(value, MAX_CONTEXT_VALUES):
            found.append(Violation(field, "more fields", f"at most {MAX_CONTEXT_VALUES} fields and list elements"))
        elif variant_kind(value) is None:
            found.append(Violation(field, short_repr(value), "a boolean, string, number or object", is_odd=True))
    first = next(iter(variants.values()), None)
    for name, value in variants.items():
        if variant_kind(first) and variant_kind(value) and variant_kind(value) != variant_kind(first):
            wanted = f"a {variant_kind(first)} like the flag's first variant"
            found.append(Violation(f"flag.variants[{name}]", short_repr(value), wanted, is_odd=True))
    names = list(variants) or ["on", "off"]
    if flag.default_variant is not None and flag.default_variant not in names:
        wanted = f"one of the flag's variants: {', '.join(names[:10])}"
        found.append(Violation("flag.default_variant", short_repr(flag.default_variant), wanted))
    return found


def variant_kind(value: JsonValue) -> str | None:
    """Return the type that all variants of a flag must share; None for a value that no variant may have."""
    kinds = {"boolean": "boolean", "string": "string", "integer": "number", "float": "number", "object": "object"}
    return kinds.get(json_values.kind(value))


def _metadata_violations(metadata: object) -> list[Violation]:
    if not isinstance(metadata, dict):
        return [Violation("flag.metadata", short_repr(metadata), "an object")]
    found = []
    if len(metadata) > MAX_METADATA:
        found.append(Violation("flag.metadata", f"{len(metadata)} fields", f"at most {MAX_METADATA}"))
    for name, value in metadata.items():
        wanted, problem = "a string, finite number or boolean", json_values.problem(value)
        if problem or json_values.kind(value) not in ("boolean", "string", "integer", "float"):
            found.append(Violation(f"flag.metadata[{name}]", short_repr(value), wanted, is_odd=problem is None))
        if not name or len(name) > MAX_KEY or "\0" in name or not json_values.is_text(name):
            found.append(Violation(f"flag.metadata[{name}]", short_repr(name), f"named with 1 to {MAX_KEY} characters"))
    return found


def _rules(flag: Flag, *, is_write: bool) -> tuple[dict[str, Any], list[Violation]]:
    """Return the fields of `Flag` with its rules as compact JSON, none if a rule is not JSON; and all violations."""
    texts: dict[Any, str] = dict(flag.evaluators)
    if has_targeting(flag):
        texts[None] = flag.targeting or ""
    if len(flag.evaluators) > MAX_EVALUATORS:
        return {}, [Violation("flag.evaluators", f"{len(flag.evaluators)} evaluators", f"at most {MAX_EVALUATORS}")]
    size = sum(len(text.encode(errors="replace")) for text in texts.values())
    if size > MAX_RULE_BYTES:
        return {}, [Violation("flag.targeting", f"{size} bytes with its evaluators", f"at most {MAX_RULE_BYTES}")]
    found: list[Violation] = []
    rules: dict[Any, JsonValue] = {}
    for name, text in texts.items():
        try:
            rules[name] = strict_loads(text)
        except NotJson as error:
            where = f" at line {error.line}, column {error.column}" if error.line else ""
            found.append(Violation(rule_field(name), short_repr(text), f"JSON; {error}{where}"))
    if found:
        return {}, found
    evaluators = {name: rule for name, rule in rules.items() if name is not None}
    known = {**_segments_to_come(rules), **evaluators} if is_write else evaluators
    variants = flag.effective_variants
    problems = problems_of(rules.get(None), flag.key, known, variants, variant_name, limits_cost=is_write)
    written = {name: compact(rule) for name, rule in rules.items()}
    fields = {"targeting": written.pop(None, None), "evaluators": written}
    return fields, [_violation(problem) for problem in problems]


def _segments_to_come(rules: Mapping[Any, JsonValue]) -> dict[str, JsonValue]:
    """Return a rule for each segment that is referred to: the store writes the segments, and checks them with it."""
    return {name: None for rule in rules.values() for name, _ in refs(rule) if name.startswith(PREFIX)}


def check_rules(flag: Flag) -> None:
    """Raise InvalidRequest for what is wrong in the rules of a flag because of the segments that it has now."""
    _, found = _rules(flag, is_write=True)
    if not found:
        return
    own = {name: text for name, text in flag.evaluators.items() if not name.startswith(PREFIX)}
    _, before = _rules(replace(flag, evaluators=own), is_write=True)
    if found := [each for each in found if each not in before]:
        raise InvalidRequest(found)


def rule_field(evaluator: str | None) -> str:
    """Return the name of the field that holds a rule: the targeting (None) or an evaluator."""
    return "flag.targeting" if evaluator is None else f"flag.evaluators[{evaluator}]"


def _violation(problem: RuleProblem) -> Violation:
    field = rule_field(problem.evaluator) + json_path(problem.path)[1:]
    return Violation(field, problem.message, is_odd=problem.effect is not Effect.AMBIGUOUS)
