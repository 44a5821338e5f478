"""What a watch gives, and when it is begun anew."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from typing import Any

from flagsvc_client._engine.model import Flag
from flagsvc_client.flags import flag_of
from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2 as pb

SILENCE_S = 25.0
"""A stream that says nothing for longer is dead: the server sends something every ten seconds."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A whole flag set, which replaces everything that was told before; it has every change up to its revision."""

    flags: tuple[Flag, ...]
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """One flag as it is now; `flag` None: it was deleted."""

    key: str
    flag: Flag | None
    revision: int


Watched = Snapshot | Change


class Backoff:
    """Pauses between attempts: up to twice as long each time, of random length, so that clients do not come at once."""

    def __init__(self) -> None:
        self._longest = FIRST_PAUSE_S

    def pause_s(self) -> float:
        """Give the next pause in seconds."""
        pause = random.uniform(0, self._longest)  # noqa: S311  jitter is no secret
        self._longest = min(self._longest * 2, LONGEST_PAUSE_S)
        return pause

    def worked(self) -> None:
        """Begin with short pauses again."""
        self._longest = FIRST_PAUSE_S


def watched(message: pb.WatchFlagsResponse) -> Watched | None:
    """Unpack one message; None for a heartbeat, and for what this release does not know."""
    event: Any = message.WhichOneof("event")
    if event == "snapshot":
        return Snapshot(tuple(flag_of(flag) for flag in message.snapshot.flags), message.resume_revision)
    if event == "change":
        change = message.change
        return Change(change.flag_key, flag_of(change.flag) if change.HasField("flag") else None, change.revision)
    return None


def cut_when_silent(stream: Any, heard: threading.Event) -> None:
    """Cancel a synchronous stream that is silent for too long; returns when the stream has ended."""
    while heard.wait(SILENCE_S):
        heard.clear()
        if not stream.is_active():
            return
    stream.cancel()
