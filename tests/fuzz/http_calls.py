"""Requests over HTTP/1.1 by hand: OFREP's and the management port's routes, unknown ones, and what is no HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from urllib.parse import quote

from flagsvc.api.ofrep.app import EVENTS, FLAGS
from tests.fuzz.calling import Answer, Call
from tests.fuzz.odd import KEYS, Odd, changed

ROUTES = {
    "ofrep evaluate": ("ofrep_port", "POST", FLAGS + "/{}"),
    "ofrep bulk": ("ofrep_port", "POST", FLAGS),
    "ofrep events": ("ofrep_port", "GET", EVENTS),
    "ofrep other": ("ofrep_port", "GET", "/{}"),
    "/healthz": ("management_port", "GET", "/healthz"),
    "/readyz": ("management_port", "GET", "/readyz"),
    "/metrics": ("management_port", "GET", "/metrics"),
    "management other": ("management_port", "GET", "/{}"),
}
_METHODS = (
    "GET",
    "POST",
    "HEAD",
    "OPTIONS",
    "PUT",
    "DELETE",
    "PATCH",
    "TRACE",
    "CONNECT",
    "get",
    "A" * 300,
    "",
    "\x00",
)
_NAMES = ("flagd-selector", "flagsvc-min-revision", "x-user", "if-none-match", "last-event-id", "origin", "accept")
_NAMES += ("content-type", "content-length", "transfer-encoding", "expect", "connection", "host", "upgrade", "cookie")
_NAMES += ("access-control-request-method", "access-control-request-headers", "range", "a b", "", "\u00e9", ":path")
_VALUES = ("", "0", "-1", "5", "99999999999999999999", "1, 2", "chunked", "gzip, chunked", "100-continue", "close", "*")
_VALUES += (
    "h2c",
    "websocket",
    "https://a.example",
    "application/json; charset=utf-16",
    '"1"',
    'W/"1", *',
    "a.b.c",
    "\t",
)
_WAIT_S, _STREAM_S = 1.0, 0.03
_CHARSETS = ("utf-8",) * 8 + ("utf-16", "utf-8-sig", "latin-1", "utf-32")


class HttpCalls:
    """Makes requests, and sends each over a connection of its own."""

    def __init__(self, ports: dict[str, int], odd: Odd) -> None:
        self._ports, self._odd, self._random = {**ports, "front_port": ports["port"]}, odd, odd.random

    def make(self, route: str, corpus: list[bytes]) -> Call:
        """Return a request to a route, a changed one in a third of the cases."""
        random, odd = self._random, self._odd
        odd.begin()
        port, method, path = ROUTES[route]
        if corpus and random.random() < 0.2:
            data = random.choice(corpus)
        else:
            method = random.choice(_METHODS) if odd.is_odd else method
            data = self.request(method, path.format(self._key()), self._body() if method == "POST" else b"")
        if random.random() < 0.35:
            data = changed(data, corpus, random)
        parts = [data]
        if random.random() < 0.05:
            at = random.randrange(len(data) + 1)
            parts = [data[:at], data[at:]]
        cancel_after = random.choice((0.0, 0.001)) if random.random() < 0.03 else None
        return Call(route, parts, timeout=_WAIT_S, cancel_after=cancel_after, port=port)

    def _key(self) -> str:
        odd = self._odd
        return (
            quote(odd.text()[:2_000], safe=self._random.choice(("", "/%?#")))
            if odd.is_odd
            else self._random.choice(KEYS)
        )

    def request(self, method: str, path: str, body: bytes, named: Sequence[tuple[str, str]] = ()) -> bytes:
        """Return a request with these headers and random ones."""
        random, odd = self._random, self._odd
        if random.random() < 0.1:
            path += "?" + random.choice(
                ("selector=flagSetId%3Dshop", "selector=" + quote(odd.text()[:300]), "a", "=&=", "%")
            )
        headers = [("host", random.choice(("localhost", "localhost", "a"))), *named] if not odd.is_odd else [*named]
        while random.random() < 0.15 + odd.share:
            value = random.choice(_VALUES) if random.random() < 0.7 else odd.text()[:9_000]
            headers.append((random.choice(_NAMES), value))
        if body and random.random() < 0.15:
            headers.append(("transfer-encoding", "chunked"))
            at = random.randrange(len(body))
            body = (
                b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:at], body[at:]) if part) + b"0\r\n\r\n"
            )
        elif body:
            headers.append(("content-length", str(len(body) + (random.choice((-1, 1, 0)) if odd.is_odd else 0))))
        version = random.choice(("1.0", "2.0", "1.1 ", "9")) if odd.is_odd else "1.1"
        end = "\n" if odd.is_odd and random.random() < 0.2 else "\r\n"
        lines = [f"{method} {path} HTTP/{version}", *(f"{name}: {value}" for name, value in headers), "", ""]
        return end.join(lines).encode("utf-8", "replace") + body

    def _body(self) -> bytes:
        random, odd = self._random, self._odd
        if random.random() < 0.02:
            return random.choice(
                (b"[" * 5_000, b'{"context":' * 900, b'{"a":1,' * 2_000, b" " * 140_000, b"\xef\xbb\xbf{}")
            )
        context = odd.json(1)
        document = {"context": context if isinstance(context, dict) or odd.is_odd else {"targetingKey": "user-1"}}
        text = json.dumps(odd.json() if odd.is_odd else document, ensure_ascii=random.random() < 0.5)
        return text.encode(random.choice(_CHARSETS) if odd.is_odd else "utf-8", "replace")

    async def send(self, call: Call) -> Answer:
        """Send a request, and return what it was answered."""
        try:
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._ports[call.port], limit=2**22)
        except OSError:  # a timeout is one
            return Answer("NO_CONNECTION")
        try:
            for part in call.parts:
                writer.write(part)
                await asyncio.sleep(0)
            if call.cancel_after is not None:
                await asyncio.sleep(call.cancel_after)
                return Answer("LEFT")
            async with asyncio.timeout(call.timeout if _seems_whole(call.parts) else _STREAM_S):
                return await _answer(reader, b"".join(call.parts)[:4])
        except TimeoutError:
            return Answer("WAITS")
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return Answer("CLOSED")
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _seems_whole(parts: list[bytes]) -> bool:
    """Whether the request probably has an end. One without is not waited for."""
    data = b"".join(parts)
    head, ends, body = data.partition(b"\r\n\r\n")
    _, named, rest = head.lower().partition(b"content-length: ")
    length = rest.split(b"\r\n")[0]
    if not ends or (named and not (length.isdigit() and len(length) < 9 and int(length) <= len(body))):
        return False
    return b"chunked" not in head or body.endswith(b"0\r\n\r\n")


async def _answer(reader: asyncio.StreamReader, method: bytes) -> Answer:
    """Read one answer: of a stream only its beginning."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    while head.startswith(b"http/1.1 1"):
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status, length = head.split(b" ", 2)[1].decode(), head.partition(b"\r\ncontent-length: ")[2].split(b"\r\n")[0]
    body = b""
    if method != b"HEAD" and length:
        with contextlib.suppress(asyncio.IncompleteReadError):  # a HEAD that was changed
            body = await reader.readexactly(int(length))
    elif b"chunked" in head:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STREAM_S):
                body = await reader.read(1_000)
    return Answer(status, body if int(status) >= 400 else b"", message=body)
