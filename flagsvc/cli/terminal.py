"""What standard output is: a terminal of some width, with colours or without, or a pipe; and the form chosen by -o."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from enum import StrEnum
from typing import TextIO

from flagsvc.core.shown_text import visible

_CODES: Mapping[str, str] = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_STATES: Mapping[str, tuple[str, ...]] = {
    "green": ("ENABLED", "SERVING", "up", "valid", "done", "ok", "ready"),
    "cyan": ("BETA",),
    "yellow": ("DEPRECATED", "disabled", "stale", "ready with problems"),
    "red": (
        *("DISABLED", "NOT_SERVING", "down", "refused", "failed", "silent", "not ready", "deleted"),
        *("revoked", "expired"),
    ),
}
_COLOURS = {state: colour for colour, states in _STATES.items() for state in states}
"""State -> colour. All other texts have none."""


class Form(StrEnum):
    """How a result is printed."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


_COLUMNS = 80
_chosen: ContextVar[Form] = ContextVar("form", default=Form.TABLE)


def choose(form: str | None) -> None:
    """Print every result of this command in a form; None for a table."""
    _chosen.set(Form(form or Form.TABLE))


def form() -> Form:
    """Return the form of this command's results."""
    return _chosen.get()


def is_terminal(stream: TextIO | None = None) -> bool:
    """Whether people read a stream, standard output if none is given, as it is written."""
    return (stream or sys.stdout).isatty()


def width() -> int:
    """Return the columns of the terminal, or COLUMNS where that is set."""
    named = os.environ.get("COLUMNS", "")
    if named.isdecimal() and int(named):
        return int(named)
    try:
        return os.get_terminal_size(sys.__stdout__.fileno() if sys.__stdout__ else -1).columns or _COLUMNS
    except (OSError, ValueError):
        return _COLUMNS


def wrapped(text: str) -> str:
    """Return a text in lines that fit on the terminal, broken between words only."""
    import textwrap  # noqa: PLC0415  not for `health`

    lines = (
        textwrap.wrap(line, width(), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False) or [""]
        for line in text.splitlines()
    )
    return "\n".join(part for parts in lines for part in parts)


def say(line: str, *, error: bool = False) -> None:
    """Print a line of text for people; a hidden character in it is escaped. `error`: beside the output."""
    shown = visible(line, "\n")
    stream = sys.stderr if error else sys.stdout
    print(wrapped(shown) if error and is_terminal(stream) else shown, file=stream, flush=True)


def say_states(line: str, states: Sequence[str]) -> None:
    """Print a line of text for people in which states stand in this order, each behind a space, in their colours."""
    shown = visible(line)
    shown = wrapped(shown) if is_terminal() else shown
    for state in states:
        shown = shown.replace(f" {state}", f" {coloured(state)}", 1)
    print(shown, flush=True)


def asks() -> bool:
    """Whether somebody can be asked: input and output are a terminal."""
    return sys.stdin is not None and sys.stdin.isatty() and is_terminal()


def answer(question: str, *, otherwise: bool) -> bool:
    """Ask; `otherwise` is the answer of the return key. The end of the input means no."""
    choice = "Y/n" if otherwise else "y/N"
    try:
        word = input(f"{question} [{choice}] ").strip().lower()
    except EOFError:
        return False
    return word in ("y", "yes") or (otherwise and not word)


def styled(text: str, *styles: str, stream: TextIO | None = None) -> str:
    """Return a text with styles for a terminal; as it is for a pipe, a terminal without colours, or with NO_COLOR."""
    codes = ";".join(_CODES[style] for style in styles if style)
    plain = not codes or not is_terminal(stream) or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain else f"\x1b[{codes}m{text}\x1b[0m"


def coloured(state: str, shown: str | None = None, stream: TextIO | None = None) -> str:
    """Return a state, or the text that shows it, in the state's colour."""
    return styled(state if shown is None else shown, _COLOURS.get(state, ""), stream=stream)
