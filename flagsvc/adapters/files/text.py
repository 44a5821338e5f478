"""A parsed flag file: its value, its problems, and the lines of paths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from flagsvc.core.flagd.findings import Finding
from flagsvc.core.json_values import Path
from flagsvc.core.model import JsonValue

MAX_DEPTH = 200
"""Maximum nesting of a file. Rules may be nested 100 deep; nothing valid comes near this limit."""


@dataclass(slots=True)
class FlagText:
    """A parsed text. With `problems` its document must not be used, but it may still be validated."""

    document: JsonValue = None
    parsed: bool = False
    """Whether the text could be parsed into a document."""
    problems: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    """What flagd reads all the same, and how it was read."""
    notes: list[Finding] = field(default_factory=list)
    lines: Callable[[Path], int] = lambda _path: 1
    """Returns the line, from 1, of a path's value; for a path without value, its nearest parent's."""


def unreadable(line: int, text: str, path: Path = ()) -> FlagText:
    """Return a text without a document, with the one problem that says why."""
    return FlagText(problems=[Finding(path, text)], lines=lambda _path: line)
