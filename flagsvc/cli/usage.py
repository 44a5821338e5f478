"""The errors of wrong command-line usage, and what a misspelled word was most likely meant to be."""

from __future__ import annotations

from collections.abc import Iterable


class UsageError(ValueError):
    """An argument is wrong; the text says what is expected."""


class BadCommandLine(UsageError):
    """The parser cannot read the command line. `usage`: how the command is used, without its options."""

    def __init__(self, text: str, usage: str) -> None:
        super().__init__(text)
        self.usage = usage


def meant(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` for the known word that looks most like this one; empty if none does."""
    import difflib  # noqa: PLC0415  only a slip needs it

    lower = {each.lower(): each for each in known}
    near = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.6)
    return f"; did you mean {lower[near[0]]}?" if near else ""
