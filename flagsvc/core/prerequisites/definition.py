"""The prerequisites of a flag: as data, as the JSON that a flag's document has, and what is wrong in that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ..errors import Violation, short_repr
from ..json_values import is_text, kind
from ..model import JsonValue

MAX_PREREQUISITES = 20
MAX_VARIANTS = 100
MAX_DEPTH = 10
"""The longest chain: a flag may have parents, which may have parents, ten times."""
MAX_NAME = 255
FIELD = "flag.prerequisites"
_NAMES = frozenset({"flagKey", "variants"})


class Prerequisite(NamedTuple):
    """The flag of this key, of the same set, has to evaluate to one of these variants."""

    flag_key: str
    variants: tuple[str, ...]


class BadPrerequisites(Exception):
    """The JSON is no list of prerequisites. `found` lists all that is wrong."""

    def __init__(self, found: list[Violation]) -> None:
        super().__init__("; ".join(map(str, found)))
        self.found = found


def prerequisites_of(value: JsonValue) -> tuple[Prerequisite, ...]:
    """Read the prerequisites of a flag; None and an empty list are none. Raises BadPrerequisites."""
    if value is None or value == []:
        return ()
    if found := violations(value):
        raise BadPrerequisites(found)
    return tuple(Prerequisite(each["flagKey"], tuple(each["variants"])) for each in value)


def keys_in(value: JsonValue) -> tuple[str, ...]:
    """Return the keys that a stored field names, as far as it is well-formed."""
    parts = value if isinstance(value, list) else []
    keys = (each.get("flagKey") for each in parts if isinstance(each, dict))
    return tuple(dict.fromkeys(key for key in keys if isinstance(key, str)))


def to_json(prerequisites: tuple[Prerequisite, ...]) -> list[dict[str, Any]] | None:
    """Write prerequisites as they are stored; None for no prerequisites."""
    return [{"flagKey": each.flag_key, "variants": list(each.variants)} for each in prerequisites] or None


def violations(value: JsonValue) -> list[Violation]:
    """Return all that is wrong in the field, apart from other flags."""
    if not isinstance(value, list) or len(value) > MAX_PREREQUISITES:
        found = f"a list of {len(value)}" if isinstance(value, list) else f"of type {kind(value)}"
        return [Violation(FIELD, found, f"a list of at most {MAX_PREREQUISITES}, each with flagKey and variants")]
    return list(_violations(value))


def _violations(value: list[JsonValue]) -> Iterator[Violation]:
    seen: set[str] = set()
    for index, each in enumerate(value):
        field = f"{FIELD}[{index}]"
        if not isinstance(each, dict) or each.keys() != _NAMES:
            yield Violation(field, short_repr(each), "an object with flagKey and variants")
            continue
        key = each["flagKey"]
        if not _is_name(key):
            yield Violation(f"{field}.flagKey", short_repr(key), f"a flag's key of 1 to {MAX_NAME} characters")
        elif key in seen:
            yield Violation(f"{field}.flagKey", short_repr(key), "a flag that is named once")
        else:
            seen.add(key)
        yield from _variant_violations(f"{field}.variants", each["variants"])


def _variant_violations(field: str, variants: JsonValue) -> Iterator[Violation]:
    if not isinstance(variants, list) or not 1 <= len(variants) <= MAX_VARIANTS:
        found = f"a list of {len(variants)}" if isinstance(variants, list) else short_repr(variants)
        yield Violation(field, found, f"a list of 1 to {MAX_VARIANTS} names of variants")
        return
    for index, name in enumerate(variants):
        if not _is_name(name) or name in variants[:index]:
            yield Violation(f"{field}[{index}]", short_repr(name), "the name of a variant, once")


def _is_name(name: JsonValue) -> bool:
    return isinstance(name, str) and 1 <= len(name) <= MAX_NAME and is_text(name) and "\0" not in name
