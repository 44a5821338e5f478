"""Keeps the local flag set up to date: what a message of the watch does, and what the passing of time does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from flagsvc_client.client_events import Events
from flagsvc_client.details import Source
from flagsvc_client.errors import FlagServiceError
from flagsvc_client.failure_log import log
from flagsvc_client.local import snapshot_file
from flagsvc_client.local.flag_set import LocalFlagSet
from flagsvc_client.local.settings import STREAM_REFUSED, settings_of
from flagsvc_client.local.snapshot_file import SavedFlagSet
from flagsvc_client.results import WriteResult
from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc_client.watch_events import Snapshot, watch_event_of

SAVE_INTERVAL_S = 2.0


class LocalUpdater:
    """The local flag set, its events, and its snapshot file if there is one. It knows neither streams nor threads."""

    def __init__(self, flag_set: str, flags: LocalFlagSet, events: Events, file: Path | None) -> None:
        self.flags, self.events = flags, events
        self._flag_set, self._file = flag_set, file
        self._unsaved, self._saved_at, self._has_settings = False, 0.0, False
        if file is not None and (saved := snapshot_file.read(file, flag_set)) is not None:
            flags.restore(saved.flags, saved.watermark, saved.age_s, saved.settings)

    @property
    def resume_revision(self) -> int:
        """The revision to resume the watch from; 0 for a copy from a file, for the store may have been restored."""
        return self.flags.watermark if self.flags.source is Source.LOCAL else 0

    def apply(self, message: pb.WatchFlagsResponse) -> None:
        """Apply one message of the watch. Raises FlagServiceError for a stream that cannot be evaluated here rightly.

        Nothing of such a stream is applied, and the copy stays what it was.
        """
        flags, event = self.flags, watch_event_of(message)
        if message.HasField("evaluation") or not self._has_settings:
            flags.settings = settings_of(message)
            self._has_settings = True
        changed: frozenset[str] = frozenset()
        if isinstance(event, Snapshot):
            changed = flags.replace(event.flags, event.revision)
        elif event is not None:
            changed = flags.change(event.key, event.flag, event.revision, message.resume_revision)
        self._unsaved = self._unsaved or event is not None
        flags.confirm()
        if flags.complete:
            self.events.set_state("ready")
        self.events.changed(changed)

    def apply_own_write(self, request: Any, result: WriteResult) -> None:
        """Apply a write of this client at once, so that it reads its own writes before the watch announces them."""
        key = request.flag.key if hasattr(request, "flag") else request.flag_key
        self.events.changed(self.flags.change(key, result.flag, result.revision))

    def starting(self) -> None:
        """Note that the copy is kept up to date from now on: it is ready when the server has confirmed it."""
        self.events.state = "starting"

    def stream_began(self) -> None:
        """Expect the settings in the next message: each stream may come from another replica."""
        self._has_settings = False

    def stream_ended(self, error: Exception | None) -> None:
        """Report an unexpected error; if no flags are known yet, also that the server cannot be reached."""
        if error is not None and not isinstance(error, FlagServiceError):
            message = "a message of the watch could not be applied; reconnecting"
            log.error(message, exc_info=error, extra={"event": "watch_message_failed"})
        if isinstance(error, FlagServiceError) and error.reason == STREAM_REFUSED:
            self.events.set_state("stale" if self.flags.complete else "error", error.message)
        elif not self.flags.complete:
            reason = error.message if isinstance(error, FlagServiceError) else error
            self.events.set_state("error", f"no flags are known and the server cannot be reached: {reason}")

    def check_age(self) -> None:
        """Report if the copy is older than the staleness bound."""
        flags = self.flags
        if flags.complete and flags.age_s > flags.staleness_bound_s:
            self.events.set_state("stale", f"no message from the server for {flags.age_s:.0f} s")

    def save_is_due(self) -> bool:
        """Whether there are changes to save, and the last save is long enough ago."""
        return self._file is not None and self._unsaved and time.monotonic() - self._saved_at >= SAVE_INTERVAL_S

    def save(self) -> None:
        """Write the snapshot file if there is one and the copy has changed."""
        if self._file is not None and self._unsaved:
            self._unsaved, self._saved_at = False, time.monotonic()
            flags = self.flags
            saved = SavedFlagSet(flags.definitions(), flags.watermark, flags.age_s, flags.settings)
            snapshot_file.write(self._file, self._flag_set, saved)
