"""One change, or one refusal, on a terminal: what, when, by whom, why, and which fields."""

from __future__ import annotations

import textwrap
from typing import Any

from flagsvc.cli import changed_fields, times
from flagsvc.cli.render import text
from flagsvc.cli.terminal import coloured, styled, width
from flagsvc.core.model import DEFAULT_SET

Entry = dict[str, Any]
"""The fields of an entry by their names in JSON; those that it lacks may be left out."""
_ACTION_STATES = {"CREATED": "done", "DELETED": "deleted"}
_INDENT = "    "


def print_entry(entry: Entry, *, at: str = "") -> None:
    """Print an entry; every line fits on the terminal, except for a longer key. `at`: the time as it is shown."""
    for line in entry_lines(entry, at=at):
        print(line, flush=True)


def entry_lines(entry: Entry, *, at: str = "") -> list[str]:
    """Return the lines of an entry."""
    fields = changed_fields.fields_between(entry.get("previousValue"), entry.get("newValue"))
    lines = [_heading(entry, at)]
    who = f"by {text(entry.get('actor') or 'anonymous')}"
    if entry.get("onBehalfOf"):
        who += f" on behalf of {text(entry['onBehalfOf'])}"
    if entry.get("via"):
        who += f" via {text(entry['via'])}"
    if entry.get("actor") is not None:
        why = f": {text(entry['reason'])}" if entry.get("reason") else ""
        lines += textwrap.wrap(who + why, width(), initial_indent=_INDENT, subsequent_indent=_INDENT * 2)
    return [*lines, *changed_fields.lines_of(fields, _INDENT)]


def _heading(entry: Entry, at: str) -> str:
    key = text(entry.get("flagKey") or entry.get("subject") or "-")
    if (flag_set := entry.get("flagSet")) and flag_set != DEFAULT_SET:
        key = f"{text(flag_set)}/{key}"
    action = text(entry["action"])
    refused = "refused" if entry.get("outcome") == "refused" else ""
    parts = [at, key, action, refused, f"revision {entry['revision']}" if entry.get("revision") else ""]
    when = ""
    if not at:
        when = f"{times.relative(entry['at'])} ({times.absolute(entry['at'])})"
        if len("  ".join([*filter(None, parts), when])) > width():
            when = times.relative(entry["at"])
    shown = {key: styled(key, "bold"), action: coloured(_ACTION_STATES.get(action, action), action)}
    return "  ".join(shown.get(part) or coloured(part) for part in [*parts, when] if part)
