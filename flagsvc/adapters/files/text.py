"""A parsed text of flags: its value, what is wrong with it, and the line of each place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from flagsvc.core.flagd.reading import Finding
from flagsvc.core.json_values import Path
from flagsvc.core.model import JsonValue

MAX_DEPTH = 200
"""Rules may be 100 deep; a text is refused where it goes far beyond all that could be right in it."""


@dataclass(slots=True)
class FlagText:
    """A parsed text. `problems` makes its document unfit for use, though the rest of it may be looked at still."""

    document: JsonValue = None
    parsed: bool = False
    """Whether there is a document at all."""
    problems: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    lines: Callable[[Path], int] = lambda _path: 1
    """Gives the line, from 1, of a place; of the nearest one around it for something that is not there."""


def unreadable(line: int, text: str, path: Path = ()) -> FlagText:
    """Make a text without a document: one problem on one line says why."""
    return FlagText(problems=[Finding(path, text)], lines=lambda _path: line)
