"""HTTP/1.1 requests that two programs in a row could read differently are refused: request smuggling needs those.

h11 refuses most by itself: lengths that contradict each other, other codings than chunked, no or two Host headers,
white space before a colon. It accepts what is refused here.
"""

from __future__ import annotations

import re

import h11

_HEAD = re.compile(rb"\r?\n\r?\n")
_AMBIGUOUS = re.compile(
    rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"  # control characters
    rb"|\r(?!\n|$)"  # a carriage return alone, which some take for the end of a line
    rb"|\n[ \t]"  # a folded header line
)


class StrictConnection(h11.Connection):
    """A server's connection. `next_event` raises RemoteProtocolError for an ambiguous request."""

    def next_event(self) -> type[h11.NEED_DATA | h11.PAUSED] | h11.Event:
        """Return the next event."""
        if self.their_state is h11.IDLE and _is_ambiguous(self.trailing_data[0]):
            raise h11.RemoteProtocolError("an ambiguous request head")
        event = super().next_event()
        if isinstance(event, h11.Request):
            names = {name for name, _ in event.headers}
            if b"transfer-encoding" in names and (b"content-length" in names or event.http_version < b"1.1"):
                raise h11.RemoteProtocolError("a request with two lengths")
            if not event.target.startswith(b"/"):
                raise h11.RemoteProtocolError("a request target that is no path")
        return event


def _is_ambiguous(received: bytes) -> bool:
    """Whether a head, or what has arrived of it, has something in it that is read differently."""
    head = _HEAD.search(received)
    return _AMBIGUOUS.search(received, 0, head.start() if head else len(received)) is not None
