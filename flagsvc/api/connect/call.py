"""One call: its message is read, its handler is called, and what that returns is sent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
from starlette.types import Receive, Scope, Send

from flagsvc.api.common.failures import failure_for
from flagsvc.api.common.handlers import Handlers
from flagsvc.api.common.outflow import UNCOUNTED_BYTES, Outflow
from flagsvc.api.common.peers import peer_name
from flagsvc.api.common.request_limits import limit_of, too_large
from flagsvc.api.connect import json_messages
from flagsvc.api.connect.context import CallContext
from flagsvc.api.connect.methods import Method
from flagsvc.api.connect.statuses import Metadata, Status, header_text, metadata_of
from flagsvc.api.connect.wires import PREFIX_BYTES, Wire, framed, unframed
from flagsvc.api.http.bodies import Bodies, BodyRefused, Disconnected, decompressed
from flagsvc.api.http.taking import until_taken
from flagsvc.core.errors import DeadlinePassed, FlagsvcError, InvalidRequest, Overloaded, invalid

WATCH_AFTER_S = 0.02
"""Seconds after which a call that is not answered yet ends if its client leaves."""
CODINGS = ("", "identity", "gzip")
"""Compressions of requests. Answers are never compressed."""
CONNECT_VERSION = "1"


class Call:
    """One request for a method, as an ASGI application."""

    def __init__(
        self,
        method: Method,
        wire: Wire,
        headers: dict[str, str],
        *,
        handlers: Handlers,
        bodies: Bodies,
        outflow: Outflow,
    ) -> None:
        self._method, self._wire, self._headers = method, wire, headers
        self._handlers, self._bodies, self._outflow = handlers, bodies, outflow
        self._has_begun = self._has_left = self._must_close = False
        self._handler: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request. A client that leaves cancels the handler, and gets nothing."""
        self._receive, self._send = receive, send
        try:
            seconds = self._checked_seconds()
        except InvalidRequest as error:
            await self._end((), _status_of(self._method.path, error))
            return
        except _Unimplemented as error:
            await self._end((), Status(grpc.StatusCode.UNIMPLEMENTED, str(error)))
            return
        self._context = CallContext(peer_name(scope["client"]), metadata_of(scope["headers"]), seconds, self._read)
        if self._wire.is_framed:
            self._context.begin = self._begin
        try:
            await self._run(self._context)
        except asyncio.CancelledError:
            if not self._has_left:
                raise
        finally:
            self._stop_watching()
            self._context.end()

    def _checked_seconds(self) -> float | None:
        """Check the headers that describe the request; return its time. Raises InvalidRequest or _Unimplemented."""
        coding = self._headers.get(self._wire.coding_header, "").strip().lower()
        if coding not in CODINGS:
            raise _Unimplemented(f"unknown compression {coding[:40]!r}: requests may be compressed with gzip")
        version = self._headers.get("connect-protocol-version", CONNECT_VERSION)
        if version != CONNECT_VERSION and not self._wire.is_grpc_web:
            raise invalid("connect-protocol-version", version, CONNECT_VERSION)
        return self._wire.seconds(self._headers)

    async def _run(self, context: CallContext) -> None:
        """Call the handler and send its answers, within the call's time."""
        answer = b""
        try:
            async with asyncio.timeout(context.time_remaining()):
                self._handler = self._handlers.of(self._method.path)
                if self._method.streams:
                    await self._stream(context)
                else:
                    answer = await self._unary(context)
            status = context.status
        except grpc.aio.AbortError:
            status = context.status
        except TimeoutError:
            status = _status_of(self._method.path, DeadlinePassed("the call's deadline has passed"))
        except Exception as error:  # noqa: BLE001  failure_for decides what the caller sees
            status = _status_of(self._method.path, error)
        self._stop_watching()
        await self._end(context.initial, status, answer)

    async def _unary(self, context: CallContext) -> bytes:
        data: bytes = await self._handler.stream_unary(None, context)
        if not self._wire.is_json:
            return data
        answer = await json_messages.encoded(data, self._method.response)
        if (more := len(answer) - len(data)) > UNCOUNTED_BYTES:
            peer = context.peer()
            self._outflow.take(peer, more)
            context.add_done_callback(lambda _: self._outflow.release(peer, more))
        return answer

    async def _stream(self, context: CallContext) -> None:
        async with contextlib.aclosing(self._handler.stream_stream(None, context)) as messages:
            async for data in messages:
                await self._begin()
                async with self._in_json(data, context.peer()) as message:
                    await until_taken(self._part)({"type": "http.response.body", "body": framed(0, message)})

    @contextlib.asynccontextmanager
    async def _in_json(self, data: bytes, peer: str) -> AsyncIterator[bytes]:
        """Yield a stream's message as it is sent. What JSON adds to its size is counted until the client took it."""
        if not self._wire.is_json:
            yield data
            return
        message = await json_messages.encoded(data, self._method.response)
        more = max(0, len(message) - len(data))
        await self._outflow.reserve(peer, more)
        try:
            yield message
        finally:
            self._outflow.release(peer, more)

    async def _read(self) -> Any:
        """Return the request's message. Raises FlagsvcError, or CancelledError if the client left."""
        method, coding = self._method.path, self._headers.get(self._wire.coding_header, "")
        limit = limit_of(method)
        try:
            if self._wire.is_framed:
                is_compressed, data = unframed(await self._bodies.read(self._receive, limit + PREFIX_BYTES))
                data = await decompressed(data, limit, coding if is_compressed else "")
            else:
                data = await self._bodies.read(self._receive, limit, coding)
        except Disconnected:
            self._has_left = True
            raise asyncio.CancelledError from None
        except BodyRefused as refused:
            self._must_close = refused.close
            raise self._error_for(refused) from None
        # From here on nothing else reads from the client. Most calls are answered before the timer would cost anything.
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._watch)
        if self._wire.is_json:
            return await json_messages.parsed(data, self._method.request, method)
        return self._handler.request_deserializer(data)

    def _error_for(self, refused: BodyRefused) -> FlagsvcError:
        match refused.status:
            case 408:
                return DeadlinePassed(refused.details)
            case 413:
                return too_large(self._method.path, limit_of(self._method.path) + 1)
            case 429:
                return Overloaded(refused.details)
        return invalid("request", refused.details, "a body as its headers describe it", "INVALID_REQUEST")

    async def _begin(self) -> None:
        """Send the head of a framed response, once."""
        if not self._has_begun:
            self._has_begun = True
            await self._head(200, self._wire.content_type, self._context.initial)

    async def _end(self, initial: Metadata, status: Status, answer: bytes = b"") -> None:
        """Send what is left of the response: all of a unary one, or the end of a framed one."""
        if status.code is grpc.StatusCode.UNAVAILABLE:
            self._must_close = True  # another replica may answer the next call
        succeeded = status.code is grpc.StatusCode.OK
        if self._wire.is_framed:
            if not self._has_begun:
                self._has_begun = True
                await self._head(200, self._wire.content_type, initial)
            last = status.grpc_web_end() if self._wire.is_grpc_web else status.connect_end()
            body = framed(0, answer) if succeeded and not self._method.streams else b""
            body += framed(self._wire.end_flag, last)
        else:
            trailers = [(f"trailer-{name}" if succeeded else name, value) for name, value in status.plain_trailers()]
            content_type = self._wire.content_type if succeeded else "application/json"
            body = answer if succeeded else json_messages.dumped(status.connect_error())
            length = ("content-length", str(len(body)))
            await self._head(status.http_status, content_type, [*initial, *trailers, length])
        send = self._send if len(body) <= UNCOUNTED_BYTES else until_taken(self._send)
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _head(self, status: int, content_type: str, headers: Metadata) -> None:
        found = [("content-type", content_type), *((name, header_text(name, value)) for name, value in headers)]
        if self._must_close:
            found.append(("connection", "close"))
        encoded = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in found]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def _part(self, message: Any) -> None:
        """Send a part of a body that goes on."""
        await self._send({**message, "more_body": True})

    def _watch(self) -> None:
        """End the handler when the client leaves."""
        self._watcher = asyncio.get_running_loop().create_task(self._cancel_when_left())

    async def _cancel_when_left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._has_left = True
        self._context.task.cancel()

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()


class _Unimplemented(Exception):
    """A request in a form that is not served."""


def _status_of(method: str, error: Exception) -> Status:
    failure = failure_for(method, error)
    return Status(failure.code, failure.message, failure.trailers())
