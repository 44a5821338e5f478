"""Tokens and denials in a snapshot: the lines behind its flags. Of a secret they have the digest only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from typing import IO

from flagsvc.core.access.denials import Denial
from flagsvc.core.access.records import Record, from_json, to_json
from flagsvc.ports import SavedAccess

_REVOKED = "revoked"


class BadAccess(ValueError):
    """The lines are not what was written."""


def lines_of(access: SavedAccess) -> Iterator[str]:
    """Yield the lines: the ids of revoked tokens, then each record behind its id."""
    yield f"{_REVOKED} {json.dumps(list(access.revoked))}\n"
    records: Iterator[Record] = chain(access.tokens, access.denials)
    for record in records:
        yield f"{record.id} {to_json(record)}\n"


def count_of(access: SavedAccess) -> int:
    """Return how many lines there are."""
    return 1 + len(access.tokens) + len(access.denials)


def access_in(file: IO[bytes], lines: int) -> SavedAccess:
    """Read so many lines, the rest of a file. Raises BadAccess."""
    tokens, denials, revoked = [], [], None
    for number in range(lines):
        name, _, text = file.readline().decode("utf-8", "replace").partition(" ")
        try:
            if number == 0:
                revoked = [str(each) for each in json.loads(text)] if name == _REVOKED else None
                continue
            record = from_json(name, text)
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise BadAccess(f"its line {number + 1} about callers is malformed") from None
        if isinstance(record, Denial):
            denials.append(record)
        else:
            tokens.append(record)
    if revoked is None or file.readline():
        raise BadAccess(f"it should have {lines} lines about callers, and has others")
    return SavedAccess(tokens, denials, revoked)
