"""Reads the files that commands take, and the error of a file that is not valid."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from flagsvc.core.errors import FlagsvcError

_MAX_SHOWN = 20


class BadFile(FlagsvcError):
    """The file cannot be imported; the text has one line per problem."""

    @classmethod
    def of(cls, path: str, problems: Sequence[str]) -> Self:
        """Return the error that lists the first problems and the number of the others."""
        more = len(problems) - _MAX_SHOWN
        rest = [f"and {more} more"] if more > 0 else []
        return cls("\n".join([f"{path}: nothing was imported", *problems[:_MAX_SHOWN], *rest]))


def read_bytes(path: str) -> bytes:
    """Read a file, or standard input for `-`. Raises BadFile."""
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise BadFile(f"{path}: cannot be read: {error.strerror}") from None
