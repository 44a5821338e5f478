"""The console blocks of a document: each command, and what the page says about its output and exit status."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_VOLATILE = re.compile(
    r"\d{4}-\d\d-\d\d[T ][\d:.]+Z?|\brevision \d+|\"revision\": \d+|\"ageMs\": \d+|\b\d+ ms\b|\b\d+s ago\b"
)
"""Parts of an output that differ from run to run."""

_EXIT = re.compile(r"#.*\bexit status (\d)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Command:
    """A command of one or more lines, and the lines that the page shows after it."""

    text: str
    shown: tuple[str, ...]

    @property
    def is_server(self) -> bool:
        """Whether it goes on until it is stopped; one that the page shows failing does not."""
        return bool(re.search(r"\bflagsvc serve\b|^make run\b", self.text)) and not self.status

    @property
    def status(self) -> int:
        """The exit status that it ends with, according to a comment or the error that the page shows."""
        if match := _EXIT.search(self.text):
            return int(match[1])
        return 2 if self.shown and self.shown[0].startswith("error:") else 0

    def difference(self, output: str) -> str:
        """Return what the page shows and the command did not print, or nothing. `...` stands for anything."""
        if not self.shown:
            return ""
        expected = re.escape(_plain("\n".join(self.shown))).replace(r"\.\.\.", ".*")
        if re.fullmatch(expected, _plain(output), re.DOTALL):
            return ""
        return "the page shows\n{}\nand it printed\n{}".format("\n".join(self.shown), output)


def commands(text: str) -> Iterator[Command]:
    """Take a console block apart."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = part.rstrip("\n").split("\n")
        end = 1
        while end < len(lines) and _goes_on("\n".join(lines[:end])):
            end += 1
        yield Command("\n".join(lines[:end]), tuple(lines[end:]))


def _goes_on(text: str) -> bool:
    """Return whether a shell would read another line: after a backslash, inside quotes, in a here-document."""
    if marker := re.search(r"<<-?\s*'?(\w+)'?", text):
        return not re.search(rf"^\s*{marker[1]}$", text, re.MULTILINE)
    without = re.sub(r"\\.|'[^']*'|\"(?:\\.|[^\"\\])*\"", "", text)
    return text.endswith("\\") or any(quote in re.sub(r"(^|\s)#.*", "", without) for quote in "'\"")


def _plain(text: str) -> str:
    """Return the text with one space for any white space, and without what differs from run to run."""
    return " ".join(_VOLATILE.sub("~", text).split())
