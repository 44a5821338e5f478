"""Remembers the stored flags that no write would make today: for the log, and for the status.

They are served as flagd serves them. A store of files names its odd flags itself, with their lines.
"""

from __future__ import annotations

from collections.abc import Iterator

import structlog

from flagsvc.core.errors import short_repr
from flagsvc.core.evaluation import Prepared
from flagsvc.core.model import Flag, FlagId
from flagsvc.core.validation import oddity
from flagsvc.ports import Problem
from flagsvc.view.near_cache import NearCache

MAX_REMEMBERED = 1_000
"""Flags that are remembered; further ones are not logged until one of these has changed."""
_NAMED = 5
"""Flags that a status names."""
_CURE = "read the flag's answer with `flagsvc evaluate FLAG --explain`, and set what the text names"

log = structlog.get_logger(__name__)


class OddFlags:
    """The odd flags, each with its revision and what is odd. Flags may be noted from any thread."""

    def __init__(self) -> None:
        self._found: dict[FlagId, tuple[int, str]] = {}

    def note(self, flag: Flag, prepared: Prepared) -> None:
        """Log a flag that is odd, once for each of its revisions."""
        text = flag.problem or prepared.problem or oddity(flag)
        known = self._found.get(flag.id)
        if not text:
            if known is not None:
                self._found.pop(flag.id, None)
            return
        if known == (flag.revision, text) or (known is None and len(self._found) >= MAX_REMEMBERED):
            return
        self._found[flag.id] = flag.revision, text
        log.warning("odd_flag", flag=flag.key, flag_set=flag.flag_set, revision=flag.revision, detail=text)

    def problems(self, near: NearCache) -> Iterator[Problem]:
        """Yield what the status says of those that are still as they were."""
        for flag_id, (revision, _) in tuple(self._found.items()):
            held = near.peek(flag_id)
            is_gone = held is None and near.complete
            if is_gone or (held is not None and held.entry.revision != revision):
                self._found.pop(flag_id, None)
        if self._found:
            named = sorted(self._found.items())[:_NAMED]
            names = "; ".join(
                f"{short_repr(i.key)} of flag set {short_repr(i.flag_set)}: {text}" for i, (_, text) in named
            )
            yield Problem(
                "odd_flag", f"odd flags are served as flagd serves them; here {len(self._found)}: {names}", _CURE
            )
