"""What a change does to one flag: as lines for people, as JSON for programs; and the preview of --dry-run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from flagsvc.cli import options, render
from flagsvc.cli.differences import leaves, sides
from flagsvc.cli.exit_codes import OK
from flagsvc.cli.terminal import coloured, is_terminal, say, styled, width
from flagsvc.core import changes
from flagsvc.core.changes import SERVER_TIMES, Author
from flagsvc.core.json_values import same
from flagsvc.core.lint import lint
from flagsvc.core.model import STORED_NAMES, WRITABLE, Change, Flag

Fields = dict[str, dict[str, Any]]
"""Stored name of a changed field -> its values before and after; None where it is not set."""
_NOT_SHOWN = {STORED_NAMES[name] for name in (*SERVER_TIMES, "revision", "bucketing", "key", "flag_set")}


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
    for name, old, new in leaves(fields):
        room = width() - len(indent) - len(name) - 6 if is_terminal() else 200
        before, after = sides(old, new, max(room, 24))
        found.append(f"{indent}{styled(render.text(name), 'bold')}: {_side(old, before)} -> {_side(new, after)}")
    return found


def check(before: Flag | None, after: Flag, actor: str, reason: str) -> Change:
    """Check a change as a server of this version does; `before` None: the flag is created. Raises InvalidRequest."""
    author = Author(datetime.now(UTC), actor, reason)
    decide = changes.create(after, author) if before is None else changes.update(after, list(WRITABLE), None, author)
    change = decide(before)
    assert change is not None  # noqa: S101  only an import decides to change nothing
    return change


def preview(args: argparse.Namespace, before: Flag | None, after: Flag) -> int:
    """Check a change and show what it would do. Raises InvalidRequest."""
    change = check(before, after, options.actor_of(args), args.reason)
    fields = flag_changes(before, change.after)
    notes = [str(note) for note in lint(change.after)] if change.after is not None else []
    if args.json:
        render.print_json({"dryRun": True, "flagKey": after.key, "fields": fields, "notes": notes})
        return OK
    say(f"{'~' if before else '+'} {render.text(after.key)}")
    for line in lines_of(fields):
        print(line)
    for note in notes:
        say(f"note: {note}", error=True)
    print(f"{'nothing would change' if not fields else 'valid'}; nothing was written (--dry-run)")
    return OK


def _side(value: Any, shown: str) -> str:
    return coloured(value, shown) if isinstance(value, str) else shown
