"""HTTP/1.1 requests that two programs in a row could read differently are refused: request smuggling needs those.

h11 refuses most by itself: lengths that contradict each other, other codings than chunked, no or two Host headers,
white space before a colon. It accepts what is refused here.
"""

from __future__ import annotations

import re

import h11

_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


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
    head, ends, _ = received.partition(b"\r\n\r\n")
    if b"\n " in head or b"\n\t" in head or _CONTROL.search(head):
        return True  # a folded line, or a control character
    returns = head.count(b"\r") - (not ends and head.endswith(b"\r"))
    return returns != head.count(b"\r\n")  # some take a carriage return alone for the end of a line
