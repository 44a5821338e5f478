"""A flag of a flagd file put into a store: what such a file does not know of the stored flag stays as it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..changes import Author, Decide, create, update
from ..json_values import NotJson, same
from ..model import Change, Flag
from .references import NotInlined, inlined
from .writing import definition, metadata_of, rules_of

_FIELDS = {
    "state": ("status",),
    "description": ("description",),
    "variants": ("variants",),
    "defaultVariant": ("default_variant",),
    "targeting": ("targeting", "evaluators"),
    "metadata": ("metadata",),
}
"""What flagd knows of a flag -> the fields that it stands for."""
_ALL = [field for fields in _FIELDS.values() for field in fields]


def put_definition(flag: Flag, author: Author) -> Decide:
    """Create the flag, or give the stored one what the file says; nothing to do when it means the same already."""

    def decide(current: Flag | None) -> Change | None:
        if current is None:
            return create(flag, author)(None)
        wanted = merged(current, flag)
        fields = [f for f in _ALL if current.problem or not same(getattr(current, f), getattr(wanted, f))]
        return update(wanted, fields, None, author)(current) if fields else None

    return decide


def merged(stored: Flag, wanted: Flag) -> Flag:
    """Give the stored flag with what the file says otherwise than an export of it would have said.

    So BETA, DEPRECATED and plain switches survive an export and an import. A file that has no description keeps the
    stored one.
    """
    if wanted.description is None:
        wanted = replace(wanted, description=stored.description)
    meant = _meaning(wanted)
    said = _meaning(stored)
    if said is not None:
        fields = [f for known, names in _FIELDS.items() if not same(said.get(known), _of(meant, known)) for f in names]
        candidate = replace(stored, **{field: getattr(wanted, field) for field in fields})
        if same(_meaning(candidate), meant):
            return candidate
    return replace(stored, problem="", **{field: getattr(wanted, field) for field in _ALL})


def _of(meaning: dict[str, Any] | None, known: str) -> Any:
    return None if meaning is None else meaning.get(known)


def _meaning(flag: Flag) -> dict[str, Any] | None:
    """Give all that flagd knows of a flag, its rule whole; None for a flag that flagd cannot read."""
    try:
        rules = rules_of(flag)
        rule = inlined(rules.rule, rules.evaluators)
    except (NotJson, NotInlined):
        return None
    return {**definition(flag), "targeting": rule, "metadata": metadata_of(flag)}
