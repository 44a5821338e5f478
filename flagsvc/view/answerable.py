"""Whether a definition may be answered from memory, without asking anybody. Pure: it changes nothing that is held."""

from __future__ import annotations

from typing import Protocol

from flagsvc.view.entries import CacheEntry


class VerifiedView(Protocol):
    """What is known of every flag, and as of when it is known to be the store's."""

    @property
    def complete(self) -> bool:
        """Whether it holds every flag of the store."""

    @property
    def staleness_bound_s(self) -> float:
        """Maximum age of what is answered without asking."""

    def verified_at_of(self, held: CacheEntry | None) -> float:
        """Return when an entry was last known to be the store's; for None, when the flag was known not to exist."""

    def contains(self, flag_set: str, revision: int) -> bool:
        """Whether every change of the set up to this revision is held."""


def verified_in_time(
    view: VerifiedView, held: CacheEntry | None, flag_set: str, now: float, min_revision: int = 0
) -> float | None:
    """Return the moment as of which an answer is verified; None if it may not be given without asking.

    `held`: what the view holds of the flag. Moments are seconds of `time.monotonic()`.
    """
    if held is None and not view.complete:
        return None
    verified_at = view.verified_at_of(held)
    if now - verified_at > view.staleness_bound_s:
        return None
    if min_revision and not includes(view, held, flag_set, min_revision):
        return None
    return verified_at


def includes(view: VerifiedView, held: CacheEntry | None, flag_set: str, revision: int) -> bool:
    """Whether an answer contains every change of the set up to a revision that can matter to the flag."""
    return (held is not None and held.entry.revision >= revision) or view.contains(flag_set, revision)
