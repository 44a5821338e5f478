"""How far this replica has received the store's change stream; shared by those who receive it and who rely on it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flagsvc.ports import NEVER, FlagStore


@dataclass(slots=True)
class StreamProgress:
    """Moments of `time.monotonic()`.

    `checkpoint`: every change of another program that the store had at this moment has arrived and has a revision.
    `unbroken_since`: since this moment none was missed.
    """

    checkpoint: float
    unbroken_since: float

    @classmethod
    def of_store(cls, store: FlagStore) -> StreamProgress:
        """Return the progress at the start: where every writer counts revisions, no stream is needed."""
        return cls(math.inf, NEVER) if store.feed is None else cls(NEVER, math.inf)

    def restart(self, now: float) -> None:
        """Record that changes may have been missed until now."""
        self.unbroken_since = now
