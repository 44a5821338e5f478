"""Gets one small document over HTTPS, bounded in bytes and in time, without redirects."""

from __future__ import annotations

import asyncio
import ssl
from urllib.parse import urlsplit

import h11

TOTAL_S = 5.0
"""Seconds for everything: the name, the connection, the handshake and the body, however slowly it comes."""
MAX_BYTES = 262_144
_OK = 200
_CHUNK = 65_536


class FetchFailed(Exception):
    """The document cannot be had. The text says why, without the address."""


async def get(url: str, context: ssl.SSLContext, token: str = "") -> bytes:
    """Return the body of an answer 200. `token`: sent as bearer token. Raises FetchFailed."""
    try:
        async with asyncio.timeout(TOTAL_S):
            return await _get(url, context, token)
    except TimeoutError:
        raise FetchFailed(f"the server does not answer within {TOTAL_S:g} s") from None
    except (OSError, UnicodeError, h11.ProtocolError) as error:
        raise FetchFailed(f"{type(error).__name__}: {_words(error)}"[:200]) from error


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return (error.strerror or "") if isinstance(error, OSError) else "no valid HTTP"


async def _get(url: str, context: ssl.SSLContext, token: str) -> bytes:
    parts = urlsplit(url)
    host = parts.hostname or ""
    reader, writer = await asyncio.open_connection(host, parts.port or 443, ssl=context, server_hostname=host)
    try:
        connection = h11.Connection(h11.CLIENT)
        headers = [("Host", parts.netloc), ("Accept", "application/json"), ("Connection", "close")]
        headers += [("Authorization", f"Bearer {token}")] if token else []
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        writer.write(connection.send(h11.Request(method="GET", target=target, headers=headers)) or b"")
        writer.write(connection.send(h11.EndOfMessage()) or b"")
        return await _body(connection, reader)
    finally:
        writer.transport.abort()  # to close TLS in order would wait for the server, also past the time limit


async def _body(connection: h11.Connection, reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_CHUNK))
        elif isinstance(event, h11.Response) and event.status_code != _OK:
            followed = "; redirects are not followed" if event.status_code // 100 == 3 else ""  # noqa: PLR2004
            raise FetchFailed(f"the server answers with status {event.status_code}{followed}")
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_BYTES:
                raise FetchFailed(f"the answer is over {MAX_BYTES} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return bytes(body)
        elif not isinstance(event, h11.Response | h11.InformationalResponse):
            raise FetchFailed("the server closes the connection before its answer is complete")
