"""What an import would change, for people and for programs: the output of `import --dry-run`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flagsvc.cli.changed_fields import Fields, lines_of
from flagsvc.cli.render import text
from flagsvc.cli.terminal import styled
from flagsvc.core.json_values import same
from flagsvc.core.model import DEFAULT_SET, Change, Flag, FlagId

_COLOURS = {"+": "green", "~": "yellow", "-": "red"}


@dataclass(slots=True)
class Differences:
    """Planned changes, collected with `count`."""

    created: list[tuple[FlagId, Flag | None]] = field(default_factory=list)
    updated: list[tuple[FlagId, Fields]] = field(default_factory=list)
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
        for line in self.lines():
            print(styled(line, _COLOURS.get(line[:1], "")))

    def lines(self) -> list[str]:
        """Return the lines that people read."""
        lines = [f"+ {_shown(flag_id)}: {flag.status if flag else ''}" for flag_id, flag in self.created]
        for flag_id, fields in self.updated:
            lines.append(f"~ {_shown(flag_id)}")
            lines += lines_of(fields)
        lines += [f"- {_shown(flag_id)}" for flag_id in self.deleted]
        summary = f"{len(self.created)} created, {len(self.updated)} updated, {len(self.deleted)} deleted"
        return [*lines, f"{summary}, {self.unchanged} unchanged; nothing was written (--dry-run)"]


def _fields(change: Change) -> Fields:
    previous, new = change.previous or {}, change.new or {}
    names = [name for name in {**previous, **new} if not same(previous.get(name), new.get(name))]
    return {name: {"before": previous.get(name), "after": new.get(name)} for name in names}


def _named(flag_id: FlagId) -> dict[str, str]:
    return {"flagSet": flag_id.flag_set, "flagKey": flag_id.key}


def _shown(flag_id: FlagId) -> str:
    return text(flag_id.key if flag_id.flag_set == DEFAULT_SET else f"{flag_id.flag_set}/{flag_id.key}")
