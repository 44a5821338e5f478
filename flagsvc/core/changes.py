"""What each kind of write does to a flag: pure decisions that a store carries out inside its transaction.

Shapes of history (action, previous, new) are the existing system's for toggle and config; others follow their pattern.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from . import json_values
from .documents import to_document
from .errors import FlagExists, FlagNotFound, RevisionConflict
from .model import ANONYMOUS, STORED_NAMES, Action, Change, Flag, Status
from .validation import validated

Decide = Callable[[Flag | None], Change | None]
"""Given the current flag, the change to store; None: nothing to do. Raises a domain error to refuse."""


@dataclass(frozen=True, slots=True)
class Author:
    """Who changes a flag, why, and when (aware UTC)."""

    at: datetime
    actor: str = ANONYMOUS
    reason: str = ""


def create(flag: Flag, author: Author) -> Decide:
    """Store a new flag; FlagExists when the key is taken."""
    blank = replace(flag, name=flag.name or flag.key, created_at=author.at, enabled_at=None, disabled_at=None)
    fresh = validated(_stamped(blank, author, moved=flag.status is Status.ENABLED))

    def decide(current: Flag | None) -> Change:
        if current is not None:
            raise FlagExists(flag.key)
        return _change(None, fresh, Action.CREATED, author)

    return decide


def toggle(key: str, enabled: bool, expected: int | None, author: Author) -> Decide:
    """Switch to the wanted state. As in the existing system, the same state again still moves times and history."""

    def decide(current: Flag | None) -> Change:
        before = _expected(key, current, expected)
        status = Status.ENABLED if enabled else Status.DISABLED
        after = _stamped(replace(before, status=status), author, moved=True)
        change = _change(before, after, Action(status.value), author)
        return replace(change, previous={"status": before.status.value}, new={"status": status.value})

    return decide


def update(wanted: Flag, fields: list[str], expected: int | None, author: Author) -> Decide:
    """Give the named fields the wanted flag's values."""

    def decide(current: Flag | None) -> Change:
        before = _expected(wanted.key, current, expected)
        values = {field: getattr(wanted, field) for field in fields}
        bare = replace(before, **values, problem="")
        after = validated(_stamped(bare, author, moved=bare.status is not before.status))
        old, new = to_document(before), to_document(after)
        names = [STORED_NAMES[field] for field in fields]
        change = _change(before, after, Action.UPDATED, author)
        return replace(change, previous={n: old.get(n) for n in names}, new={n: new.get(n) for n in names})

    return decide


def delete(key: str, expected: int | None, author: Author) -> Decide:
    """Delete the flag; its history stays."""

    def decide(current: Flag | None) -> Change:
        return _change(_expected(key, current, expected), None, Action.DELETED, author)

    return decide


def put(flag: Flag, author: Author) -> Decide:
    """Import a whole flag, times included; nothing to do when the stored one already says the same."""

    def decide(current: Flag | None) -> Change | None:
        after = replace(flag, revision=current.revision if current else 0)
        if current is None:
            return _change(None, after, Action.CREATED, author)
        old, new = to_document(current), to_document(after)
        names = [n for n in {**old, **new} if not json_values.same(old.get(n), new.get(n))]
        if not names:
            return None
        change = _change(current, after, Action.UPDATED, author)
        return replace(change, previous={n: old.get(n) for n in names}, new={n: new.get(n) for n in names})

    return decide


def _expected(key: str, current: Flag | None, expected: int | None) -> Flag:
    if current is None:
        raise FlagNotFound(key)
    if expected is not None and current.revision != expected:
        raise RevisionConflict(key, expected, current.revision)
    return current


def _stamped(flag: Flag, author: Author, *, moved: bool) -> Flag:
    """Set updatedAt and, where the status moved, enabledAt or disabledAt; the other one is kept."""
    flag = replace(flag, updated_at=author.at)
    if moved and flag.status is Status.ENABLED:
        return replace(flag, enabled_at=author.at)
    if moved and flag.status is Status.DISABLED:
        return replace(flag, disabled_at=author.at)
    return flag


def _change(before: Flag | None, after: Flag | None, action: Action, author: Author) -> Change:
    return Change(
        before=before,
        after=after,
        action=action,
        previous=to_document(before) if before else None,
        new=to_document(after) if after else None,
        actor=author.actor or ANONYMOUS,
        reason=author.reason,
        at=author.at,
    )
