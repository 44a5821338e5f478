"""Changes that only a message on the shared cache's channel has claimed so far. The store has the last word.

Whoever may publish on the channel can claim anything. So a change that was applied because of a message is noted here
until the change stream delivers it too, or until a poll has read the flag from the store. A claim that the store
contradicts is replaced by what the store has, even where that is older.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from flagsvc.core.model import FlagId
from flagsvc.ports import NEVER, Announced, Entry, Problem
from flagsvc.view.entries import same_entry
from flagsvc.view.near_cache import NearCache

MAX_AHEAD = 10_000
"""A revision further than this above the watermark is not applied: a poll asks the store instead."""
MAX_NOTED = 10_000
SHOWN_S = 300.0
"""How long a contradicted claim is reported as a problem."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Hint:
    """A claim that was applied. `revision`: of the claimed change, which the entry may be newer than.

    `received_at`: when it came, or when the store was asked about it; `is_asked_again`: the store did not settle it.
    """

    entry: Entry
    revision: int
    received_at: float
    is_asked_again: bool = False


class Hints:
    """The claims that were applied and are not confirmed yet. `contradicted` counts those that were wrong."""

    def __init__(self, near: NearCache) -> None:
        self._near = near
        self._noted: dict[tuple[str, int], dict[FlagId, Hint]] = {}
        self._count = 0
        self._contradicted_at = NEVER
        self.contradicted = 0

    def __len__(self) -> int:
        return self._count

    def accept(self, event: Announced, now: float) -> bool:
        """Note an announcement if it is news. Return False where it must not be applied, and a poll has to ask."""
        entry, revision = event.entry, event.event_revision or event.entry.revision
        changelog = self._near.changelogs.of(entry.id.flag_set)
        if max(entry.revision, revision) > changelog.watermark + MAX_AHEAD:
            return False
        held = self._near.get(entry.id)
        is_newer = entry.revision > held.entry.revision if held is not None else not self._near.complete
        is_missing = revision > changelog.watermark and revision not in changelog.ahead
        if is_newer or is_missing:
            if self._count >= MAX_NOTED:
                return False
            self._note(Hint(entry, revision, now))
        return True

    def note_read(self, entry: Entry, now: float) -> None:
        """Note an entry of the shared cache that claims a revision which no poll has seen yet."""
        if entry.revision > self._near.changelogs.watermark(entry.id.flag_set) and self._count < MAX_NOTED:
            self._note(Hint(entry, entry.revision, now))

    def has(self, flag_id: FlagId) -> bool:
        """Whether a claim about the flag is not confirmed yet."""
        return any(flag_id in claims for claims in self._noted.values())

    def has_any(self, flag_set: str) -> bool:
        """Whether a claim about a flag of the set is not confirmed yet."""
        return any(name == flag_set for name, _ in self._noted)

    def confirm(self, event: Announced, now: float) -> None:
        """Compare the claims of one revision with the change that the change stream reports, and settle them."""
        entry, revision = event.entry, event.event_revision or event.entry.revision
        claims = self._noted.get((entry.id.flag_set, revision))
        hint = self._pop(entry.id, revision) if claims is not None and entry.id in claims else None
        if hint is not None and hint.entry.revision == entry.revision and not same_entry(hint.entry, entry):
            self._replace(hint, entry, NEVER, now)
        for other in list((claims or {}).values()):  # a revision belongs to one flag: the next poll asks the store
            self._note(Hint(other.entry, other.revision, NEVER))

    def due(self, received_before: float) -> list[Hint]:
        """Return what the store has to be asked about."""
        return [
            hint for claims in self._noted.values() for hint in claims.values() if hint.received_at < received_before
        ]

    def settle(
        self, hints: Sequence[Hint], stored: dict[FlagId, Entry], as_of: float, counters: Mapping[str, int]
    ) -> bool:
        """Compare claims with what the store has, which was read later. Return whether none was found wrong.

        A claim that may have been right, of a flag that another program has changed since, is left to the next poll:
        that change has a revision by then. Where a claim was not right, or where the store has moved on, the set's
        revisions are no longer known to be applied.
        `counters`: of the store, as of before; empty where changes of other programs get no revision.
        """
        now, all_right = time.monotonic(), True
        for hint in hints:
            self._pop(hint.entry.id, hint.revision)
            entry = stored[hint.entry.id]
            if not hint.is_asked_again and _is_changed_since(hint, entry, counters):
                self._note(replace(hint, received_at=now, is_asked_again=True))
                continue
            is_right = entry.flag is not None and hint.revision == entry.revision and same_entry(hint.entry, entry)
            all_right = all_right and is_right
            is_contradicted = False
            if _is_inserted_since(hint, entry, counters):
                pass  # the load that follows gives the flag a revision; until then what was announced stays
            elif entry.revision < hint.entry.revision or (
                entry.revision == hint.entry.revision and not same_entry(hint.entry, entry)
            ):
                is_contradicted = True
                self._replace(hint, entry, as_of, now)
            else:
                self._near.apply_read(entry, as_of, now)
            if not is_right:
                self._near.changelogs.of(entry.id.flag_set).forget(were_told=not is_contradicted)
        return all_right

    def clear(self) -> None:
        """Forget all claims: the whole view was read from the store."""
        self._noted.clear()
        self._count = 0

    def problems(self) -> Sequence[Problem]:
        """Return the problem of claims that were contradicted a short time ago."""
        if time.monotonic() - self._contradicted_at > SHOWN_S:
            return ()
        detail = f"{self.contradicted} announced changes contradicted the store, and were replaced by what it has"
        cure = (
            "find out who publishes on Redis, and restrict it by an ACL; if a copy of this store shares the Redis, give"
            " it its own FLAGSVC_CACHE_PREFIX"
        )
        return (Problem("announcements_contradicted", detail, cure),)

    def _note(self, hint: Hint) -> None:
        claims = self._noted.setdefault((hint.entry.id.flag_set, hint.revision), {})
        self._count += hint.entry.id not in claims
        claims[hint.entry.id] = hint

    def _pop(self, flag_id: FlagId, revision: int) -> Hint | None:
        claims = self._noted.get((flag_id.flag_set, revision), {})
        hint = claims.pop(flag_id, None)
        self._count -= hint is not None
        if not claims:
            self._noted.pop((flag_id.flag_set, revision), None)
        return hint

    def _replace(self, hint: Hint, entry: Entry, as_of: float, now: float) -> None:
        self.contradicted += 1
        if now - self._contradicted_at > SHOWN_S:
            log.warning(
                "announcement_contradicted",
                flag_set=entry.id.flag_set,
                flag_key=entry.id.key,
                claimed_revision=hint.entry.revision,
                stored_revision=entry.revision,
                detail="A message announced what the store does not have. The store's definition replaces it.",
            )
        self._contradicted_at = now
        self._near.force_replace(hint.entry.revision, entry, as_of, now)


def _is_changed_since(hint: Hint, entry: Entry, counters: Mapping[str, int]) -> bool:
    """Whether a claim may have been right, and another program has changed or deleted the flag since."""
    if hint.entry.flag is None or hint.revision > counters.get(entry.id.flag_set, 0):
        return False
    return entry.flag is None or (entry.revision == hint.entry.revision and not same_entry(hint.entry, entry))


def _is_inserted_since(hint: Hint, entry: Entry, counters: Mapping[str, int]) -> bool:
    """Whether a claim may have been right, and another program has inserted the flag since, without a revision."""
    is_counted = hint.revision <= counters.get(entry.id.flag_set, 0)
    return is_counted and hint.entry.revision > 0 and entry.flag is not None and entry.revision == 0
