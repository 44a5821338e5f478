"""Which fields of a flag differ between two states of it, as lines for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flagsvc.cli import render, rollout_text
from flagsvc.cli.terminal import coloured, is_terminal, styled, width
from flagsvc.core.changes import SERVER_TIMES
from flagsvc.core.json_values import same
from flagsvc.core.model import STORED_NAMES, Flag
from flagsvc.core.needs import NEEDS

Fields = dict[str, dict[str, Any]]
"""Stored name of a changed field -> its values before and after; None where it is not set."""
ROLLOUT = STORED_NAMES["rollout"]
_BY_NAME = frozenset({"variants", "metadata", "evaluators"})
_PIPED_WIDTH = 200
_BEFORE = 30
"""Characters shown before the first difference of two long values, at most."""
_NOT_SHOWN = {STORED_NAMES[name] for name in (*SERVER_TIMES, "revision", "bucketing", "key", "flag_set")} | {
    NEEDS,
    "etag",
}


def fields_between(previous: Any, new: Any) -> Fields:
    """Return the fields that differ between two documents, or parts of documents, of a flag; None: there is none."""
    old, now = (dict(side) if isinstance(side, Mapping) else {} for side in (previous, new))
    return {
        name: {"before": old.get(name), "after": now.get(name)}
        for name in {**old, **now}
        if name not in _NOT_SHOWN and not same(old.get(name), now.get(name))
    }


def flag_changes(before: Flag | None, after: Flag | None) -> Fields:
    """Return the fields that differ between two states of a flag; None: it does not exist."""
    return fields_between(*(None if flag is None else render.flag_fields(flag) for flag in (before, after)))


def lines_of(fields: Fields, indent: str = "    ") -> list[str]:
    """Return a line for each change, which fits on the terminal."""
    found = []
    for name, before_change, after_change in _leaves(fields):
        old, new = _worded(name, before_change), _worded(name, after_change)
        room = width() - len(indent) - len(name) - 6 if is_terminal() else _PIPED_WIDTH
        before, after = _sides(old, new, max(room, 24))
        found.append(f"{indent}{styled(render.text(name), 'bold')}: {_side(old, before)} -> {_side(new, after)}")
    return found


def _worded(name: str, value: Any) -> Any:
    """Return a value for people: a rollout in words, all else as it is."""
    return rollout_text.words(value) or value if name == ROLLOUT else value


def _leaves(fields: Fields) -> Iterator[tuple[str, Any, Any]]:
    """Yield each changed field with its old and new value; of a field with named parts, the changed parts."""
    for name, each in fields.items():
        if name not in _BY_NAME:
            yield name, each["before"], each["after"]
            continue
        old, new = each["before"] or {}, each["after"] or {}
        for part in {**old, **new}:
            if not same(old.get(part), new.get(part)):
                yield f"{name}.{part}", old.get(part), new.get(part)


def _sides(before: Any, after: Any, room: int) -> tuple[str, str]:
    """Return both values as texts of so many characters together, from shortly before the first difference."""
    old, new = render.text(before), render.text(after)
    room = max(room // 2, room - min(len(old), len(new))) - 2 * len("...")
    start = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    start = max(0, start - min(_BEFORE, room // 3)) if max(len(old), len(new)) > room else 0
    return _cut(old, start, room), _cut(new, start, room)


def _cut(whole: str, start: int, room: int) -> str:
    end = start + room
    return ("..." if start else "") + whole[start:end] + ("..." if end < len(whole) else "")


def _side(value: Any, shown: str) -> str:
    return coloured(value, shown) if isinstance(value, str) else shown
