"""The writes: each is a pure decision function that a store runs inside its transaction.

History entries (action, previous, new) of toggles and config updates are the existing system's; others are similar.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from . import json_values
from .documents import to_document
from .errors import FlagExists, FlagNotFound, RevisionConflict
from .flag_rollouts import with_rollout_changed, with_rollout_continued, with_rollout_copied
from .model import ANONYMOUS, DEFAULT_BUCKETING, STORED_NAMES, WRITABLE, Action, Change, Flag, Status
from .rollouts import Rollout
from .sizes import without_large
from .validation import MAX_FLAG_BYTES, Check, validated, validated_change

Decide = Callable[[Flag | None], Change | None]
"""From the current flag (None: absent) to the change to store (None: no change). Raises FlagsvcError to reject it."""


SERVER_TIMES = ("created_at", "updated_at", "enabled_at", "disabled_at")
"""Times that the server writes, never a caller."""


@dataclass(frozen=True, slots=True)
class Author:
    """Who makes a change, why, and when (aware UTC).

    `actor`: as the request says. `caller`: who makes the call, where callers are authenticated.
    `via`: what makes the change in their name.
    """

    at: datetime
    actor: str = ANONYMOUS
    reason: str = ""
    caller: str = ""
    via: str = ""


def create(flag: Flag, author: Author, check: Check = validated) -> Decide:
    """Create a flag. Raises InvalidRequest; the decision raises FlagExists."""
    blank = replace(flag, name=flag.name or flag.key, created_at=author.at, enabled_at=None, disabled_at=None)
    blank = replace(blank, bucketing=DEFAULT_BUCKETING)  # the store writes it
    fresh = validated_change(_stamped(blank, author, moved=flag.status is Status.ENABLED), check=check)

    def decide(current: Flag | None) -> Change:
        if current is not None:
            raise FlagExists(flag.key)
        return _change(None, fresh, Action.CREATED, author)

    return decide


def toggle(key: str, enabled: bool, expected: int | None, author: Author) -> Decide:
    """Enable or disable a flag. The decision raises FlagNotFound or RevisionConflict.

    As in the existing system, setting the current status again still updates the times and adds a history entry.
    """

    def decide(current: Flag | None) -> Change:
        before = _expected(key, current, expected)
        status = Status.ENABLED if enabled else Status.DISABLED
        after = _stamped(replace(before, status=status), author, moved=True)
        return _change(before, after, Action(status.value), author, ["status"])

    return decide


def update(wanted: Flag, fields: list[str], expected: int | None, author: Author, check: Check = validated) -> Decide:
    """Copy the named fields from `wanted`. The decision raises FlagNotFound, RevisionConflict or InvalidRequest."""

    def decide(current: Flag | None) -> Change:
        before = _expected(wanted.key, current, expected)
        values = {field: getattr(wanted, field) for field in fields}
        bare = with_rollout_continued(replace(before, **values, problem=""), before, author.at)
        after = validated_change(_stamped(bare, author, moved=bare.status is not before.status), before, check)
        return _change(before, after, Action.UPDATED, author, [STORED_NAMES[field] for field in fields])

    return decide


def change_rollout(
    key: str, change: Callable[[Rollout, float], Rollout], expected: int | None, author: Author
) -> Decide:
    """Change how a flag's rollout goes on. The decision raises FlagNotFound, RevisionConflict or RolloutMissing."""

    def decide(current: Flag | None) -> Change:
        before = _expected(key, current, expected)
        after = validated_change(_stamped(with_rollout_changed(before, author.at, change), author, moved=False), before)
        return _change(before, after, Action.UPDATED, author, ["rollout"])

    return decide


def delete(key: str, expected: int | None, author: Author) -> Decide:
    """Delete a flag and keep its history. The decision raises FlagNotFound or RevisionConflict."""

    def decide(current: Flag | None) -> Change:
        return _change(_expected(key, current, expected), None, Action.DELETED, author)

    return decide


def restore(past: Flag, expected: int | None, author: Author) -> Decide:
    """Restore the definition that a flag had; one that is gone is created. Times and bucketing are not of the past.

    The definition was stored before, so today's limits do not refuse it. A rollout begins at the share that stands.
    Fields that flagsvc does not know stay as they are. The decision raises FlagNotFound or RevisionConflict.
    """
    values = {field: getattr(past, field) for field in WRITABLE}

    def decide(current: Flag | None) -> Change:
        if current is None and expected is None:
            made = replace(past, revision=0, bucketing=DEFAULT_BUCKETING)
            return _change(None, _stamped(made, author, moved=True), Action.CREATED, author)
        before = _expected(past.key, current, expected)
        bare = with_rollout_copied(replace(before, **values, problem=""), before, author.at)
        names = [STORED_NAMES[field] for field in WRITABLE] if before.problem else _differing(before, bare)
        after = _stamped(bare, author, moved=bare.status is not before.status)
        return _change(before, after, Action.UPDATED, author, names)

    return decide


def restamp(current: Flag, author: Author) -> Change:
    """Return the change that stores the flag once more, for what the store itself writes in every definition."""
    return _change(current, replace(current, updated_at=author.at), Action.UPDATED, author, [])


def put(flag: Flag, author: Author) -> Decide:
    """Import a whole flag; a time that it lacks stays as it is. The decision is None if nothing else differs.

    A rollout begins at the share that stands. The store alone writes the bucketing.
    """

    def decide(current: Flag | None) -> Change | None:
        if current is None:
            blank = replace(flag, revision=0, bucketing=DEFAULT_BUCKETING)
            return _change(None, blank, Action.CREATED, author)
        times = {field: getattr(flag, field) or getattr(current, field) for field in SERVER_TIMES}
        copied = with_rollout_copied(flag, current, author.at)
        after = replace(copied, revision=current.revision, bucketing=current.bucketing, **times)
        if not _differing(current, after):
            return None
        # What only the server writes when a flag changes, the import writes where its file does not say.
        stamped = _stamped(after, author, moved=flag.status is not current.status)
        times = {field: getattr(flag, field) or getattr(stamped, field) for field in SERVER_TIMES}
        after = replace(after, **times)
        return _change(current, after, Action.UPDATED, author, _differing(current, after))

    return decide


def create_only(decide: Decide) -> Decide:
    """Return a decision that leaves a flag alone that exists already."""
    return lambda current: decide(None) if current is None else None


def _differing(old: Flag, new: Flag) -> list[str]:
    """Return the stored names of the fields that differ."""
    before, after = to_document(old), to_document(new)
    return [n for n in {**before, **after} if not json_values.same(before.get(n), after.get(n))]


def _expected(key: str, current: Flag | None, expected: int | None) -> Flag:
    if current is None:
        raise FlagNotFound(key)
    if expected is not None and current.revision != expected:
        raise RevisionConflict(key, expected, current.revision)
    return current


def _stamped(flag: Flag, author: Author, *, moved: bool) -> Flag:
    """Set updatedAt and, if the status changed, the matching one of enabledAt and disabledAt."""
    flag = replace(flag, updated_at=author.at)
    if moved and flag.status is Status.ENABLED:
        return replace(flag, enabled_at=author.at)
    if moved and flag.status is Status.DISABLED:
        return replace(flag, disabled_at=author.at)
    return flag


def _change(
    before: Flag | None, after: Flag | None, action: Action, author: Author, names: list[str] | None = None
) -> Change:
    """Return the change. `names`: the stored fields that its history entry has, set or not; None: all that are set."""
    previous, new = (None if flag is None else to_document(flag) for flag in (before, after))
    if previous is not None and new is not None and names is not None:
        previous, new = {n: previous.get(n) for n in names}, {n: new.get(n) for n in names}
    previous, new = (None if side is None else without_large(side, MAX_FLAG_BYTES) for side in (previous, new))
    return Change(
        before=before,
        after=after,
        action=action,
        previous=previous,
        new=new,
        actor=author.actor or author.caller or ANONYMOUS,
        reason=author.reason,
        caller=author.caller,
        via=author.via,
        at=author.at,
    )
