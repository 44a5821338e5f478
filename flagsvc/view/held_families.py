"""Which held flags depend on which, kept as entries change, and what is held of all these flags."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from flagsvc.core.model import FlagId
from flagsvc.core.prerequisites import descendants, keys_in
from flagsvc.view.entries import CacheEntry


class Moment(NamedTuple):
    """What is held, at one moment, of the flags of a set that depend on others, and of these others, by key.

    What has a revision above `up_to` is of a later state of the store than the rest may be.
    `as_of`: what is held is not older than the store was then.
    """

    members: Mapping[str, CacheEntry]
    up_to: int
    as_of: float


class _OfSet:
    """The flags of one set that depend on others. `children`: by the key of a flag, those that name it."""

    __slots__ = ("children", "members")

    def __init__(self) -> None:
        self.children: dict[str, dict[str, None]] = {}
        self.members: dict[str, CacheEntry] = {}


class HeldFamilies:
    """The flags with prerequisites, and the flags that they name, of each set that has any."""

    def __init__(self, held: Mapping[FlagId, CacheEntry]) -> None:
        """`held`: all entries, already as they are after the change that `put` and `drop` are called for."""
        self._held = held
        self._of_set: dict[str, _OfSet] = {}

    def put(self, held: CacheEntry, old: CacheEntry | None) -> None:
        """Note an entry in the place of an old one of the same flag, if there is one."""
        flag_id, named = held.entry.id, _named(held)
        of_set = self._of_set.get(flag_id.flag_set)
        if of_set is None:
            if not named:
                return
            of_set = self._of_set[flag_id.flag_set] = _OfSet()
        self._rename(of_set, flag_id, _named(old), named)
        if named or flag_id.key in of_set.children:
            of_set.members[flag_id.key] = held
        self._tidy(flag_id.flag_set, of_set)

    def drop(self, old: CacheEntry) -> None:
        """Forget an entry that is no longer held."""
        flag_id = old.entry.id
        of_set = self._of_set.get(flag_id.flag_set)
        if of_set is not None:
            self._rename(of_set, flag_id, _named(old), ())
            of_set.members.pop(flag_id.key, None)
            self._tidy(flag_id.flag_set, of_set)

    def has(self, flag_set: str) -> bool:
        """Whether a flag of this set depends on another one."""
        return flag_set in self._of_set

    def members(self, flag_set: str) -> dict[str, CacheEntry]:
        """Return what is held at this moment of a set's flags that depend on others, or that others depend on."""
        of_set = self._of_set.get(flag_set)
        return of_set.members.copy() if of_set is not None else {}

    def descendants(self, flag_set: str, keys: Iterable[str]) -> Iterator[str]:
        """Yield the keys of the held flags that depend on these, directly or through others."""
        return descendants(keys, lambda key: self._children(flag_set, key))

    def _children(self, flag_set: str, key: str) -> Iterable[str]:
        of_set = self._of_set.get(flag_set)
        return of_set.children.get(key, ()) if of_set is not None else ()

    def _rename(self, of_set: _OfSet, child: FlagId, before: tuple[str, ...], named: tuple[str, ...]) -> None:
        """Record that a flag names others than it did before."""
        if before == named:
            return
        for key in before:
            children = of_set.children.get(key, {})
            children.pop(child.key, None)
            if not children:
                of_set.children.pop(key, None)
                self._leave(of_set, child.flag_set, key)
        for key in named:
            of_set.children.setdefault(key, {})[child.key] = None
            parent = self._held.get(FlagId(child.flag_set, key))
            if parent is not None:
                of_set.members[key] = parent
        if not named:
            self._leave(of_set, child.flag_set, child.key)

    def _leave(self, of_set: _OfSet, flag_set: str, key: str) -> None:
        """Drop a member that no flag names any more, and that names none."""
        held = self._held.get(FlagId(flag_set, key))
        if key not in of_set.children and (held is None or not _named(held)):
            of_set.members.pop(key, None)

    def _tidy(self, flag_set: str, of_set: _OfSet) -> None:
        if not of_set.children:
            self._of_set.pop(flag_set, None)


def _named(held: CacheEntry | None) -> tuple[str, ...]:
    flag = held.entry.flag if held is not None else None
    return keys_in(flag.prerequisites) if flag is not None and flag.prerequisites else ()
