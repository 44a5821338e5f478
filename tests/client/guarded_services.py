"""A service of bytes with a method of every kind, in every form that a handler can have, behind guards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import grpc

SERVICE = "guarded.Service"
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
FORMS = ("asyncio", "asyncio writers", "threads in asyncio", "sync")


class Seen:
    """What handlers recorded: calls that reached them, and how these ended."""

    def __init__(self) -> None:
        self.calls: list[bytes] = []
        self.ends: list[str] = []


def asyncio_handlers(seen: Seen) -> dict[str, Callable[..., Any]]:
    async def unary_unary(request: bytes, context: Any) -> bytes:
        seen.calls.append(request)
        return b"answer to " + request

    async def unary_stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        seen.calls.append(request)
        try:
            yield request
            if request == b"silent":
                await asyncio.Event().wait()
            while request == b"endless":
                await asyncio.sleep(0.005)
                yield request
            yield b"last"
        except asyncio.CancelledError:
            seen.ends.append("cancelled")
            raise
        finally:
            seen.ends.append("finally")

    async def stream_unary(requests: AsyncIterator[bytes], context: Any) -> bytes:
        try:
            return b",".join([_seen(seen, request) async for request in requests])
        except asyncio.CancelledError:
            seen.ends.append("cancelled")
            raise

    async def stream_stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield _seen(seen, request)

    return _named(unary_unary, unary_stream, stream_unary, stream_stream)


def writing_handlers(seen: Seen) -> dict[str, Callable[..., Any]]:
    async def unary_stream(request: bytes, context: Any) -> None:
        seen.calls.append(request)
        await context.write(request)
        try:
            while request == b"silent":  # noqa: ASYNC110  it waits to be cancelled
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            seen.ends.append("cancelled")
            raise
        await context.write(b"last")

    async def stream_stream(_: Any, context: Any) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(_seen(seen, request))

    return asyncio_handlers(seen) | _named(unary_stream, stream_stream)


def sync_handlers(seen: Seen) -> dict[str, Callable[..., Any]]:
    def unary_unary(request: bytes, context: Any) -> bytes:
        seen.calls.append(request)
        return b"answer to " + request

    def unary_stream(request: bytes, context: Any) -> Iterator[bytes]:
        seen.calls.append(request)
        yield request
        ends_at = time.monotonic() + 5  # threads cannot be stopped from outside
        while request == b"endless" and time.monotonic() < ends_at:
            time.sleep(0.005)
            yield request
        yield b"last"

    def stream_unary(requests: Iterable[bytes], context: Any) -> bytes:
        return b",".join(_seen(seen, request) for request in requests)

    def stream_stream(requests: Iterable[bytes], context: Any) -> Iterator[bytes]:
        for request in requests:
            yield _seen(seen, request)

    return _named(unary_unary, unary_stream, stream_unary, stream_stream)


def _named(*functions: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    return {function.__name__: function for function in functions}


def _seen(seen: Seen, request: bytes) -> bytes:
    seen.calls.append(request)
    return request


HANDLERS = {
    "asyncio": asyncio_handlers,
    "asyncio writers": writing_handlers,
    "threads in asyncio": sync_handlers,
    "sync": sync_handlers,
}


def generic_handler(functions: dict[str, Callable[..., Any]]) -> grpc.GenericRpcHandler:
    """The service with these functions, each for the kind of its name."""
    handlers = {kind: getattr(grpc, f"{kind}_rpc_method_handler")(functions[kind]) for kind in functions}
    return grpc.method_handlers_generic_handler(SERVICE, handlers)


@asynccontextmanager
async def serving(
    form: str, interceptors: Iterable[Any] = (), functions: dict[str, Callable[..., Any]] | None = None
) -> AsyncIterator[tuple[str, Seen]]:
    """The service in this process: its address, and the record of its handlers."""
    seen = Seen()
    service = generic_handler(functions or HANDLERS[form](seen))
    options = (("grpc.so_reuseport", 0),)
    pool = ThreadPoolExecutor(16)
    server: Any
    if form == "sync":
        server = grpc.server(pool, (service,), tuple(interceptors), options)
    else:
        server = grpc.aio.server(pool, (service,), tuple(interceptors), options)
    port = server.add_insecure_port("127.0.0.1:0")
    started = server.start()
    if started is not None:
        await started
    try:
        yield f"127.0.0.1:{port}", seen
    finally:
        if started is None:
            await asyncio.to_thread(server.stop(0).wait)
        else:
            await server.stop(0)
        await asyncio.to_thread(pool.shutdown)


async def call(
    channel: grpc.aio.Channel, kind: str, request: bytes = b"hello", metadata: Iterable[tuple[str, str]] = ()
) -> list[bytes]:
    """Call a method with that request, twice where it takes a stream; return all answers."""
    method = getattr(channel, kind)(f"/{SERVICE}/{kind}")
    sent: Any = _stream(request) if kind.startswith("stream") else request
    answer = method(sent, metadata=tuple(metadata), timeout=10)
    return [message async for message in answer] if kind.endswith("stream") else [await answer]


async def to_end(call: Any) -> None:
    """Read the whole stream."""
    while await call.read() is not grpc.aio.EOF:
        pass


async def _stream(request: bytes) -> AsyncIterator[bytes]:
    yield request
    yield request


EXPECTED = {
    "unary_unary": [b"answer to hello"],
    "unary_stream": [b"hello", b"last"],
    "stream_unary": [b"hello,hello"],
    "stream_stream": [b"hello", b"hello"],
}


def call_sync(channel: grpc.Channel, kind: str, request: bytes = b"hello") -> list[bytes]:
    """`call` on a synchronous channel."""
    method = getattr(channel, kind)(f"/{SERVICE}/{kind}")
    sent: Any = iter((request, request)) if kind.startswith("stream") else request
    answer = method(sent, timeout=10)
    return list(answer) if kind.endswith("stream") else [answer]
