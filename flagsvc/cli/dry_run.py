"""A change of one flag that is checked and shown, and not written."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from flagsvc.cli import options, render
from flagsvc.cli.changed_fields import flag_changes, lines_of
from flagsvc.cli.exit_codes import OK
from flagsvc.cli.terminal import say
from flagsvc.core import changes
from flagsvc.core.changes import Author
from flagsvc.core.lint import lint
from flagsvc.core.model import WRITABLE, Change, Flag
from flagsvc.core.segments import segments_of


def check(before: Flag | None, after: Flag, actor: str, reason: str) -> Change:
    """Check a change as a server of this version does; `before` None: the flag is created. Raises InvalidRequest."""
    author = Author(datetime.now(UTC), actor, reason)
    decide = changes.create(after, author) if before is None else changes.update(after, list(WRITABLE), None, author)
    change = decide(before)
    assert change is not None  # noqa: S101  only an import decides to change nothing
    return change


def has_links(flag: Flag) -> bool:
    """Whether the flag names other flags or segments, which only the server knows."""
    return bool(flag.prerequisites) or bool(segments_of(flag))


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
