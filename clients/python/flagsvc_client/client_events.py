"""The events of a local copy: its state, and which flags changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from flagsvc_client.failure_log import log

Kind = Literal["ready", "stale", "error", "changed"]
State = Literal["starting", "ready", "stale", "error", "closed"]


@dataclass(frozen=True, slots=True)
class ClientEvent:
    """A change of the local copy.

    ready: it is up to date. stale: the server sent nothing for longer than the staleness bound. error: no flags are
    known and the server cannot be reached. changed: the flags in `keys` may have other values now.
    """

    kind: Kind
    keys: frozenset[str] = field(default_factory=frozenset)
    message: str = ""


class Events:
    """Sends events to the listeners: each change of state once, and each change of flags."""

    def __init__(self, listener: Callable[[ClientEvent], None] | None) -> None:
        self._listeners = [listener] if listener is not None else []
        self.state: State = "starting"

    def listen(self, listener: Callable[[ClientEvent], None]) -> Callable[[], None]:
        """Add a listener; returns a function that removes it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def set_state(self, state: Literal["ready", "stale", "error"], message: str = "") -> None:
        """Set the state, and notify the listeners if it is a new one."""
        if state != self.state:
            self.state = state
            self._notify(ClientEvent(state, message=message))

    def changed(self, keys: frozenset[str]) -> None:
        """Notify the listeners of changed flags, if there are any."""
        if keys:
            self._notify(ClientEvent("changed", keys))

    def _notify(self, event: ClientEvent) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception:  # noqa: BLE001  a listener is not our code
                log.exception("a listener failed on event %s", event.kind, extra={"event": "listener_failed"})
