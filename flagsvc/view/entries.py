"""One entry of the near cache: what is known of a flag, since when, and where it came from."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from flagsvc.core.documents import to_document
from flagsvc.core.evaluation import NO_FLAG, Dependent, Prepared, prepare
from flagsvc.core.model import Flag
from flagsvc.ports import Entry
from flagsvc.turns import off_loop

Prepare = Callable[[Flag], Prepared]


class Source(StrEnum):
    """The tier that a definition was read from."""

    NEAR = "near"
    CACHE = "cache"
    STORE = "store"
    SNAPSHOT = "snapshot"


MAX_INLINE_CHARS = 2_048
"""Longest rule that is compiled on the event loop, where that takes up to 2 ms."""


class CacheEntry:
    """One held entry. Its rule is compiled after a load in turns, or when it is first asked for.

    `compiled`: the compiled definition, once there is one, of a flag that depends on no other.
    `dependent`: that of a flag that depends on others. It is apart, so that evaluations of all others look for nothing.
    `replies`: what transports keep of it, encoded (`api.common.replies`).
    `verified_at`: the entry is not older than the store was at this moment. `received_at`: when it arrived here.
    Both are `time.monotonic()` seconds.
    """

    __slots__ = (
        "_prepare",
        "_unmet_replies",
        "compiled",
        "dependent",
        "entry",
        "is_untold",
        "origin",
        "received_at",
        "replies",
        "size",
        "verified_at",
    )

    def __init__(
        self,
        entry: Entry,
        verified_at: float,
        received_at: float,
        prepare: Prepare = prepare,
        origin: Source = Source.NEAR,
    ) -> None:
        self.entry = entry
        self.verified_at, self.received_at = verified_at, received_at
        self.origin = origin
        self.size = 0  # about how much memory it takes, once it is held
        self.replies: dict[Any, tuple[bytes, ...]] = {}
        self._unmet_replies: dict[str, dict[Any, tuple[bytes, ...]]] | None = None
        self._prepare = prepare
        self.compiled: Prepared | None = None if entry.flag else NO_FLAG
        self.dependent: Dependent | None = None
        self.is_untold = False  # whether it is held without that anybody was notified of it

    @property
    def prepared(self) -> Prepared:
        """The compiled definition. On the event loop only after `compile`."""
        known = self.compiled or self.dependent
        if known is None:
            known = self._prepare(self.entry.flag) if self.entry.flag else NO_FLAG
            if isinstance(known, Dependent):
                self.dependent = known
            else:
                self.compiled = known
        return known

    @property
    def own(self) -> Prepared:
        """The compiled definition without its prerequisites."""
        return self.dependent.own if self.dependent is not None else self.prepared

    def replies_of(self, failed_prerequisite: str | None) -> dict[Any, tuple[bytes, ...]]:
        """Return what transports keep of it, or of it where a prerequisite fails: answers name that one."""
        if failed_prerequisite is None:
            return self.replies
        if self._unmet_replies is None:
            self._unmet_replies = {}
        return self._unmet_replies.setdefault(failed_prerequisite, {})

    @property
    def is_compiled(self) -> bool:
        """Whether the definition is compiled, or there is none."""
        return self.compiled is not None or self.dependent is not None

    async def compile(self) -> None:
        """Compile the definition: a short rule at once, a long one in a thread, where others wait for it too.

        A rollout becomes a rule that may be long.
        """
        flag = self.entry.flag
        if not self.is_compiled and flag is not None:
            size = len(flag.targeting or "") + sum(map(len, flag.evaluators.values()))
            if size > MAX_INLINE_CHARS or flag.rollout is not None:
                await off_loop(lambda: self.prepared)
            else:
                _ = self.prepared

    def is_replaced_by(self, entry: Entry, as_of: float) -> bool:
        """Whether an entry read as of a moment is newer: by its revision, or by its content at an equal revision.

        Two reads of an equal revision that overlapped in time may be in either order, so the held one stays.
        """
        if entry.revision != self.entry.revision:
            return entry.revision > self.entry.revision
        return entry.flag != self.entry.flag and not self.may_be_newer_than(as_of)

    def may_be_newer_than(self, as_of: float) -> bool:
        """Whether this entry came from a read that ended after the moment."""
        return as_of <= max(self.received_at, self.verified_at)

    def verify(self, entry: Entry, as_of: float) -> None:
        """Raise `verified_at` where a read found what is held."""
        same = entry.revision == self.entry.revision and (
            not self.may_be_newer_than(as_of) or entry.flag == self.entry.flag
        )
        if same and as_of >= self.verified_at:
            self.verified_at, self.origin = as_of, Source.NEAR


def same_entry(one: Entry, other: Entry) -> bool:
    """Whether two entries are equal, JSON types included: 1, 1.0 and true are three values."""
    if one != other:
        return False
    if one.flag is None or other.flag is None:
        return True
    return _text(one.flag) == _text(other.flag)


def _text(flag: Flag) -> str:
    """Return the definition as JSON, made by the interpreter's own encoder: walking the values takes much longer."""
    return json.dumps(to_document(flag), sort_keys=True, default=str)
