"""Remembers the flags whose rules needed more work than an evaluation may take: for the log, and for the status."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import structlog

from flagsvc.core.errors import short_repr
from flagsvc.core.model import FlagId
from flagsvc.ports import Problem
from flagsvc.view.near_cache import NearCache

MAX_REMEMBERED = 1_000
"""Flags that are remembered; further ones are not logged until one of these has changed."""
_NAMED = 5
"""Flags that a status names."""

log = structlog.get_logger(__name__)


class ExpensiveRules:
    """The flags that answered GENERAL for this reason, each with the revision that did."""

    def __init__(self, near: NearCache) -> None:
        self._near = near
        self._revisions: dict[FlagId, int] = {}

    def note(self, flag_id: FlagId, revision: int) -> None:
        """Log a flag, once for each of its revisions."""
        if self._revisions.get(flag_id) == revision:
            return
        if flag_id not in self._revisions and len(self._revisions) >= MAX_REMEMBERED:
            return
        self._revisions[flag_id] = revision
        detail = "The rule took more work than an evaluation may take for a caller's context, so it answered GENERAL."
        log.warning("rule_over_budget", flag=flag_id.key, flag_set=flag_id.flag_set, revision=revision, detail=detail)

    def problems(self) -> Iterator[Problem]:
        """Yield what the status says of those that are still as they were."""
        for flag_id, revision in tuple(self._revisions.items()):
            held = self._near.peek(flag_id)
            is_gone = held is None and self._near.complete
            if is_gone or (held is not None and held.entry.revision != revision):
                del self._revisions[flag_id]
        if self._revisions:
            named = islice(sorted(self._revisions), _NAMED)
            names = ", ".join(f"{short_repr(key)} of flag set {short_repr(flag_set)}" for flag_set, key in named)
            detail = f"rules that are too expensive for some contexts answered GENERAL; here {len(self._revisions)}: "
            cure = "use fewer searches in texts and shorter loops: flagsvc validates rules that are written through it"
            yield Problem("rule_over_budget", detail + names, cure)
