"""For threads. Generated from aio.py by `make sync-client`; do not edit."""

from __future__ import annotations

import math
import time
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from flagsvc_client.default_values import ANY_TYPE
from flagsvc_client.errors import CLIENT_UNUSABLE, FlagServiceError, Unavailable
from flagsvc_client.session import NOT_READY, Session
from flagsvc_client.transport.backoff import Backoff
from flagsvc_client.transport.sync import Event, Transport, wait_for
from flagsvc_client.watch_events import SnapshotPages

if TYPE_CHECKING:
    from flagsvc_client.local.updater import LocalUpdater

CLOCK_INTERVAL_S = 0.25
READY_KEY = "flagsvc-ready"
"""What is asked of a server to see whether it answers; whether there is such a flag does not matter."""


class Follower:
    """Follows the server's flags with a local copy. `wait_ready_s`: how long evaluations wait for the first ones."""

    def __init__(self, session: Session, local: LocalUpdater, wait_ready_s: float) -> None:
        self.local, self._session = local, session
        self._wait_ready_s, self._waits_until = wait_ready_s, math.inf

    def start(self, transport: Transport) -> None:
        """Keep the copy up to date from now on, unless that is so, the transport is closed, or no loop runs yet."""
        if transport.closed or transport.running:
            return
        self.local.starting()  # before they start: the first flags may arrive at once
        if transport.start(partial(self._update_loop, transport), partial(self._clock_loop, transport)):
            self._waits_until = time.monotonic() + self._wait_ready_s

    def wait_for_flags(self, transport: Transport) -> None:
        """Wait for the copy's first flags, up to `wait_ready_s` after the start."""
        self.start(transport)
        if self.local.flags.complete:
            return
        if self._wait_ready_s > 0 and (seconds := self._waits_until - time.monotonic()) > 0:
            self.wait_ready(transport, min(seconds, self._wait_ready_s))

    def wait_ready(self, transport: Transport, timeout_s: float) -> bool:
        """Wait until the copy is up to date; returns whether it is."""
        self.start(transport)
        events, became_ready = self.local.events, Event()
        remove_listener = events.listen(lambda _: became_ready.set() if events.state == "ready" else None)
        try:
            if events.state != "ready" and not transport.closed:
                wait_for(became_ready, timeout_s)
        finally:
            remove_listener()
        return events.state == "ready" and not transport.closed

    def _update_loop(self, transport: Transport) -> None:
        """Apply the watch stream to the local copy. Any exception must be survived, else the copy would stay old."""
        local, backoff = self.local, Backoff()
        while not transport.closed:
            error: Exception | None = None
            try:
                request = self._session.watch_request(local.resume_revision)
                local.stream_began()
                with closing(transport.messages(request)) as messages:
                    pages = SnapshotPages()
                    for page in messages:
                        if (message := pages.add(page)) is not None:
                            local.apply(message)
                        backoff.reset()
            except Exception as caught:  # noqa: BLE001  see above
                error = caught
            if not transport.closed:
                local.stream_ended(error)
                transport.sleep(backoff.next_delay_s())

    def _clock_loop(self, transport: Transport) -> None:
        """Report when the local copy becomes stale, and save it from time to time."""
        local = self.local
        while not transport.closed:
            transport.sleep(CLOCK_INTERVAL_S)
            local.check_age()
            if local.save_is_due():
                transport.run_blocking(local.save)


def wait_for_answer(transport: Transport, session: Session, timeout_s: float) -> bool:
    """Evaluate any key until the server answers; False if it refuses, or when the time is over."""
    until, backoff = time.monotonic() + timeout_s, Backoff()
    request = session.evaluate_request(READY_KEY, None, ANY_TYPE, 0)
    while not transport.closed and (seconds := until - time.monotonic()) > 0:
        try:
            response = transport.call("EvaluateFlag", request, min(seconds, session.timeout_s))
            if response.evaluation.error_code != NOT_READY:
                return not transport.closed
        except Unavailable as error:
            if error.reason == CLIENT_UNUSABLE:
                return False
        except FlagServiceError:
            return False
        transport.sleep(min(backoff.next_delay_s(), max(until - time.monotonic(), 0)))
    return False
