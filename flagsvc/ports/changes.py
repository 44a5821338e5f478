"""What is known of flags, and how a change of one is reported."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from flagsvc.core.model import Change, Flag, FlagId

NEVER = -math.inf
"""The `as_of` of what nobody has verified."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A known state of one flag: its definition, or that it does not exist.

    `flag` None with a revision above 0: absent as of that revision of its set (deleted, or never made).
    """

    id: FlagId
    revision: int
    flag: Flag | None

    @property
    def is_public(self) -> bool:
        """Whether it is a flag that callers with the role public may see."""
        return self.flag is not None and self.flag.is_public

    @staticmethod
    def of(flag: Flag) -> Entry:
        """A flag that exists."""
        return Entry(flag.id, flag.revision, flag)

    @staticmethod
    def absent(flag_id: FlagId, revision: int = 0) -> Entry:
        """A flag that does not exist; with revision 0 it is replaced by anything that was ever written."""
        return Entry(flag_id, revision, None)


class WrittenFlag(NamedTuple):
    """A flag that was changed together with others. `revision`: 0 where nothing was stored.

    `fields`: stored names of those that changed; none where the flag was created or deleted.
    """

    key: str
    action: str
    revision: int
    fields: Sequence[str]

    @classmethod
    def all_of(cls, changes: Sequence[Change], entries: Sequence[Entry]) -> list[Self]:
        """Return what changes have done. `entries`: the flags after each; none where nothing was stored."""
        return [cls._of(change, entries[number] if entries else None) for number, change in enumerate(changes)]

    @classmethod
    def _of(cls, change: Change, entry: Entry | None) -> Self:
        flag = change.after or change.before
        assert flag is not None  # noqa: S101  a change has one of both
        is_update = change.before is not None and change.after is not None
        fields = sorted(change.new or ()) if is_update else ()
        return cls(flag.key, change.action.value, entry.revision if entry is not None else 0, fields)


@dataclass(frozen=True, slots=True)
class Family:
    """A flag and all flags that it depends on, by key, as of one moment; one that does not exist is not in it.

    `revision`: that of their set at this moment.
    """

    revision: int
    entries: Mapping[str, Entry]


@dataclass(frozen=True, slots=True)
class StoreContents:
    """Every flag of every set. `revisions`: per set, the revision up to which all changes are surely contained.

    Later changes may be contained too. `absent`: flags that were looked up once more, each with a revision as of which
    it does not exist.
    """

    flags: Sequence[Flag]
    revisions: Mapping[str, int]
    absent: Mapping[FlagId, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoreIdentity:
    """Which store something belongs to. `id`: made once and kept in the store; `name`: for people, without secrets."""

    id: str
    name: str

    def __str__(self) -> str:
        """Return both, for logs and problems."""
        return f"{self.name} ({self.id})"


@dataclass(frozen=True, slots=True)
class Subscribed:
    """A channel was (re)connected: earlier messages may have been missed."""


@dataclass(frozen=True, slots=True)
class Announced:
    """A flag changed to this entry. `reply`: replicas that have applied it send a heartbeat at once.

    `event_revision`: the revision of the announced change where the entry is already newer; 0: the entry's own.
    """

    entry: Entry
    reply: bool = False
    event_revision: int = 0


@dataclass(frozen=True, slots=True)
class IdentityChanged:
    """The store was given a new identity: what is held of it must be read from it again."""


@dataclass(frozen=True, slots=True)
class TokensChanged:
    """Tokens changed; what they are now is in the store alone."""


@dataclass(frozen=True, slots=True)
class UnversionedChange:
    """Another program changed or deleted (`gone`) a flag without a new revision; `revision` is the one it has."""

    id: FlagId
    revision: int
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Every change that the store had at this moment has been delivered."""

    as_of: float


StoreEvent = Subscribed | Announced | UnversionedChange | Checkpoint
