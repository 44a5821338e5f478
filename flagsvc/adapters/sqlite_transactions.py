"""Transactions of a connection to SQLite that begins none by itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def transaction(db: Any, kind: str) -> Iterator[None]:
    """Run what is inside in one transaction."""
    db.execute(f"BEGIN {kind}")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
