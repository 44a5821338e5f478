"""Import of flags from a flagd file: fields that flagd's format lacks keep their stored values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..changes import Author, Decide, create, update
from ..json_values import NotJson, same
from ..model import Change, Flag
from ..validation import importable
from .references import NotInlined, inlined
from .writing import definition, metadata_in_file, rules_of

_FIELDS = {
    "state": ("status",),
    "description": ("description",),
    "variants": ("variants",),
    "defaultVariant": ("default_variant",),
    "targeting": ("targeting", "evaluators"),
    "metadata": ("metadata", "exposure"),
}
"""Property of a flag in flagd's format -> the fields of `Flag` that it determines."""
_ALL_FIELDS = [field for fields in _FIELDS.values() for field in fields]


def put_definition(flag: Flag, author: Author) -> Decide:
    """Create the flag, or update the stored one to the file's definition; no change if both already mean the same."""

    def decide(current: Flag | None) -> Change | None:
        if current is None:
            return create(flag, author, importable)(None)
        wanted = merged(current, flag)
        fields = [f for f in _ALL_FIELDS if current.problem or not same(getattr(current, f), getattr(wanted, f))]
        return update(wanted, fields, None, author, importable)(current) if fields else None

    return decide


def merged(stored: Flag, wanted: Flag) -> Flag:
    """Return the stored flag, changed where the file differs from what an export of the stored flag would contain.

    So BETA, DEPRECATED and plain switches survive an export and re-import. Without a description in the file, the
    stored one is kept.
    """
    if wanted.description is None:
        wanted = replace(wanted, description=stored.description)
    old, new = _exported(stored), _exported(wanted)
    if old is not None:
        given = new or {}
        fields = [f for name, fields in _FIELDS.items() if not same(old.get(name), given.get(name)) for f in fields]
        candidate = replace(stored, **{field: getattr(wanted, field) for field in fields})
        if same(_exported(candidate), new):
            return candidate
    return replace(stored, problem="", **{field: getattr(wanted, field) for field in _ALL_FIELDS})


def _exported(flag: Flag) -> dict[str, Any] | None:
    """Return the flag in flagd's format, its rule with all references inlined; None if flagd cannot read it."""
    try:
        rules = rules_of(flag)
        rule = inlined(rules.rule, rules.evaluators)
    except (NotJson, NotInlined):
        return None
    return {**definition(flag), "targeting": rule, "metadata": metadata_in_file(flag)}
