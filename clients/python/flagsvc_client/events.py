"""What a client that evaluates locally tells of itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["ready", "stale", "error", "changed"]
State = Literal["starting", "ready", "stale", "error"]
log = logging.getLogger("flagsvc_client")


@dataclass(frozen=True, slots=True)
class ClientEvent:
    """ready: what is held is up to date. stale: nothing was heard of the server for longer than the bound.

    error: nothing is held and the server cannot be asked. changed: these flags may evaluate to something else now.
    """

    kind: Kind
    keys: frozenset[str] = field(default_factory=frozenset)
    message: str = ""


class Events:
    """Tells each change of state once, and each change of flags."""

    def __init__(self, told: Callable[[ClientEvent], None] | None) -> None:
        self._told = [told] if told is not None else []
        self.state: State = "starting"

    def listen(self, told: Callable[[ClientEvent], None]) -> Callable[[], None]:
        """Tell one more; gives what takes that back."""
        self._told.append(told)
        return lambda: self._told.remove(told)

    def became(self, state: Literal["ready", "stale", "error"], message: str = "") -> None:
        """Note the state, and tell it when it is another one."""
        if state != self.state:
            self.state = state
            self._tell(ClientEvent(state, message=message))

    def changed(self, keys: frozenset[str]) -> None:
        """Tell which flags changed."""
        if keys:
            self._tell(ClientEvent("changed", keys))

    def _tell(self, event: ClientEvent) -> None:
        for told in tuple(self._told):
            try:
                told(event)
            except Exception:
                log.exception("a listener failed on %s", event.kind)
