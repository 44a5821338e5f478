"""How far this replica has received the store's change stream; shared by those who receive it and who rely on it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from enum import StrEnum

from flagsvc.ports import NEVER, FlagStore
from flagsvc.replication.timing import SUBSCRIPTION_TIMEOUT_S


class FeedKind(StrEnum):
    """How this replica learns of changes that another program makes in the store."""

    STREAM = "stream"
    POLLING = "polling"
    NONE = "none"


@dataclass(slots=True)
class StreamProgress:
    """Moments of `time.monotonic()`.

    `checkpoint`: every change of another program that the store had at this moment has arrived and has a revision.
    `unbroken_since`: since this moment none was missed. `kind`: whether there is a stream.
    """

    checkpoint: float
    unbroken_since: float
    kind: FeedKind = FeedKind.STREAM

    @classmethod
    def of_store(cls, store: FlagStore) -> StreamProgress:
        """Return the progress at the start: where every writer counts revisions, no stream is needed."""
        return cls(math.inf, NEVER, FeedKind.NONE) if store.feed is None else cls(NEVER, math.inf)

    @property
    def delivers(self) -> bool:
        """Whether there is a stream that delivers now."""
        return self.kind is FeedKind.STREAM and time.monotonic() - self.checkpoint < SUBSCRIPTION_TIMEOUT_S

    def restart(self, now: float) -> None:
        """Record that changes may have been missed until now."""
        self.unbroken_since = now
