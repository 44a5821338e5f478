"""What an import would change, for people and for programs: the output of `import --dry-run`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from flagsvc.cli.render import text
from flagsvc.core.json_values import same
from flagsvc.core.model import DEFAULT_SET, Change, Flag, FlagId

_WIDTH = 100
"""Characters shown of each side of a changed field, from shortly before the first difference."""
_BEFORE = 30
_BY_NAME = frozenset({"variants", "metadata", "evaluators"})
_COLOURS = {"+": "green", "~": "yellow", "-": "red"}


@dataclass(slots=True)
class Differences:
    """Planned changes, collected with `count`."""

    created: list[tuple[FlagId, Flag | None]] = field(default_factory=list)
    updated: list[tuple[FlagId, dict[str, dict[str, Any]]]] = field(default_factory=list)
    deleted: list[FlagId] = field(default_factory=list)
    unchanged: int = 0

    def count(self, flag_id: FlagId, change: Change | None) -> None:
        """Add one planned change; None: the flag is already so."""
        if change is None:
            self.unchanged += 1
        elif change.after is None:
            self.deleted.append(flag_id)
        elif change.before is None:
            self.created.append((flag_id, change.after))
        else:
            self.updated.append((flag_id, _fields(change)))

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return {
            "dryRun": True,
            "flags": len(self.created) + len(self.updated) + self.unchanged,
            "created": [_named(flag_id) for flag_id, _ in self.created],
            "updated": [{**_named(flag_id), "fields": fields} for flag_id, fields in self.updated],
            "deleted": [_named(flag_id) for flag_id in self.deleted],
            "unchanged": self.unchanged,
        }

    def print(self) -> None:
        """Print everything for people, in colour on a terminal."""
        from rich.console import Console  # noqa: PLC0415  slow to import, and not needed for --help
        from rich.text import Text  # noqa: PLC0415

        console = Console(file=sys.stdout, soft_wrap=True)
        for line in self.lines():
            console.print(Text(line, style=_COLOURS.get(line[:1], "")), soft_wrap=True)

    def lines(self) -> list[str]:
        """Return the lines that people read."""
        lines = [f"+ {_shown(flag_id)}: {flag.status if flag else ''}" for flag_id, flag in self.created]
        for flag_id, fields in self.updated:
            lines.append(f"~ {_shown(flag_id)}")
            lines += [
                f"    {text(name)}: {' -> '.join(sides(old, new, 2 * _WIDTH))}" for name, old, new in leaves(fields)
            ]
        lines += [f"- {_shown(flag_id)}" for flag_id in self.deleted]
        summary = f"{len(self.created)} created, {len(self.updated)} updated, {len(self.deleted)} deleted"
        return [*lines, f"{summary}, {self.unchanged} unchanged; nothing was written (--dry-run)"]


def _fields(change: Change) -> dict[str, dict[str, Any]]:
    previous, new = change.previous or {}, change.new or {}
    names = [name for name in {**previous, **new} if not same(previous.get(name), new.get(name))]
    return {name: {"before": previous.get(name), "after": new.get(name)} for name in names}


def leaves(fields: dict[str, dict[str, Any]]) -> Iterator[tuple[str, Any, Any]]:
    """Yield each changed field with its old and new value; of a field with named parts, the changed parts."""
    for name, each in fields.items():
        if name not in _BY_NAME:
            yield name, each["before"], each["after"]
            continue
        old, new = each["before"] or {}, each["after"] or {}
        for part in {**old, **new}:
            if not same(old.get(part), new.get(part)):
                yield f"{name}.{part}", old.get(part), new.get(part)


def _named(flag_id: FlagId) -> dict[str, str]:
    return {"flagSet": flag_id.flag_set, "flagKey": flag_id.key}


def _shown(flag_id: FlagId) -> str:
    return text(flag_id.key if flag_id.flag_set == DEFAULT_SET else f"{flag_id.flag_set}/{flag_id.key}")


def sides(before: Any, after: Any, width: int) -> tuple[str, str]:
    """Return both values as texts of so many characters together, from shortly before the first difference."""
    old, new = text(before), text(after)
    width = max(width // 2, width - min(len(old), len(new))) - 2 * len("...")
    start = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    start = max(0, start - min(_BEFORE, width // 3)) if max(len(old), len(new)) > width else 0
    return _cut(old, start, width), _cut(new, start, width)


def _cut(whole: str, start: int, width: int) -> str:
    end = start + width
    return ("..." if start else "") + whole[start:end] + ("..." if end < len(whole) else "")
