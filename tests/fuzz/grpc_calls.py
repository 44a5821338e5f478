"""Calls over gRPC, of every method that the server's reflection names."""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.fuzz.calling import Answer, Call
from tests.fuzz.messages import Messages
from tests.fuzz.odd import Odd, changed

_HEADERS = ("flagd-selector", "flagsvc-min-revision", "x-user", "traceparent", "baggage", "user-agent", "a-bin")
_CHANNELS = 4
_TIMEOUTS_S = (1.0,) * 30 + (0.2, 0.01, 0.001, 0.0)
_MESSAGES_OF_A_STREAM = 3
_CLIENTS_OWN = "Internal error from Core"
"""What the client says by itself when a call ends while it writes a message."""
_NO_CONNECTION = re.compile(r"failed to connect|\bipv4:[\d.]+:\d+", re.IGNORECASE)
"""What the client says by itself when the server has gone, or reset the connection."""
_ENDED = (asyncio.InvalidStateError, grpc.aio.InternalError)
"""What the client raises for writing to a call that has ended. Reading says why."""
_REMEMBERED = ("etag", "next_page_token")
UNKNOWN = ("/flagsvc.v1.FlagService/Unknown", "/unknown.Service/Method", "/", "/a", "//", "/flagsvc.v1.FlagService/")


@dataclass
class Method:
    """One method."""

    descriptor: MethodDescriptor

    @property
    def path(self) -> str:
        """As calls name it."""
        return f"/{self.descriptor.containing_service.full_name}/{self.descriptor.name}"

    @property
    def streams(self) -> bool:
        """Whether it does not end by itself."""
        return bool(self.descriptor.server_streaming)


def learned(address: str) -> dict[str, Method]:
    """Return the methods of a server, by path. It blocks."""
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        services = [pool.FindServiceByName(name) for name in database.get_services()]
        methods = [Method(method) for service in services for method in service.methods]
        for method in methods:
            assert method.descriptor.input_type.full_name  # all of it is read before the channel closes
        return {method.path: method for method in methods}


class GrpcCalls:
    """Makes calls, and sends them over a few channels."""

    def __init__(self, address: str, methods: dict[str, Method], odd: Odd) -> None:
        self._methods = methods
        self._odd, self._random, self._messages = odd, odd.random, Messages(odd)
        options = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
        self._channels = [grpc.aio.insecure_channel(address, options) for _ in range(_CHANNELS)]
        self._answers = {path: GetMessageClass(each.descriptor.output_type) for path, each in methods.items()}

    async def close(self) -> None:
        """Close the channels."""
        await asyncio.gather(*(channel.close() for channel in self._channels))

    def make(self, path: str, corpus: list[bytes]) -> Call:
        """Return a call of a method, a changed one in half of the cases."""
        random, method = self._random, self._methods.get(path)
        if method is None:
            return Call(random.choice(UNKNOWN), [random.randbytes(9)])
        data = (
            random.choice(corpus)
            if corpus and random.random() < 0.3
            else self._messages.of(method.descriptor.input_type)
        )
        if random.random() < 0.4:
            data = changed(data, corpus, random)
        parts, streams = [data], method.streams
        if random.random() < (0.5 if method.descriptor.client_streaming else 0.02):
            streams, parts = True, random.choice(([], [data] * 2, [data, b""]))
        timeout = random.choice((0.02, 0.05, 0.1)) if streams else random.choice(_TIMEOUTS_S)
        if method.streams and random.random() < 0.1:
            timeout = 0.4
        cancel_after = random.choice((0.0, 0.002, 0.01)) if random.random() < 0.03 else None
        compression = random.choice((1, 2)) if random.random() < 0.03 else 0
        return Call(path, parts, self._headers(), timeout, cancel_after, compression, streams)

    def _headers(self) -> list[tuple[str, str | bytes]]:
        found: list[tuple[str, str | bytes]] = []
        while self._random.random() < 0.12 + 0.3 * self._odd.share:
            name = self._random.choice(_HEADERS)
            if name.endswith("-bin"):
                found.append((name, self._random.randbytes(self._random.choice((0, 9, 3_000)))))
                continue
            text = self._odd.text() if self._random.random() < 0.5 else self._odd.plain_text("selector")
            text = str(self._odd.integer()) if name == "flagsvc-min-revision" and self._random.random() < 0.7 else text
            shown = "".join(char for char in text if " " <= char <= "~").strip()
            found.append((name, shown[: self._random.choice((20, 20, 20, 7_000))]))
        return found

    async def send(self, call: Call) -> Answer:
        """Send a call, and return what it was answered."""
        channel = self._random.choice(self._channels)
        headers, compression = tuple(call.headers), grpc.Compression(call.compression)
        named = {"timeout": call.timeout, "metadata": headers, "compression": compression}
        try:
            if call.streams:
                message = await self._streamed(channel.stream_stream(call.method)(**named), call)
            else:
                sent = channel.unary_unary(call.method)(call.parts[0], **named)
                message = await _cancelled(sent, call)
        except grpc.aio.AioRpcError as error:
            if error.details() == _CLIENTS_OWN:
                return Answer("NOT_SENT", _CLIENTS_OWN.encode())
            if _NO_CONNECTION.search(error.details() or ""):
                return Answer("NO_CONNECTION")
            details = [value for _, value in error.trailing_metadata() or ()]
            text = (error.details() or "").encode()
            return Answer(error.code().name, b"\0".join([text, *(each for each in details if isinstance(each, bytes))]))
        except asyncio.CancelledError:
            if call.cancel_after is None and not call.streams:
                raise
            return Answer("CANCELLED")
        except (ValueError, grpc.aio.UsageError) as error:  # the client refuses to send it
            return Answer("NOT_SENT", type(error).__name__.encode())
        self._remember(call.method, message)
        return Answer("OK", message=message)

    async def _streamed(self, sent: Any, call: Call) -> bytes:
        """Send the messages, read a few answers, and cancel what has not ended."""
        try:
            for part in call.parts:
                with contextlib.suppress(*_ENDED):
                    await sent.write(part)
            if call.cancel_after is None:
                with contextlib.suppress(*_ENDED):
                    await sent.done_writing()
            found = b""
            for _ in range(_MESSAGES_OF_A_STREAM):
                message = await sent.read()
                if message is grpc.aio.EOF:
                    break
                found = message
            return found
        finally:
            sent.cancel()

    def _remember(self, path: str, data: bytes) -> None:
        """Keep the etags and page tokens of an answer for later calls."""
        if path not in self._answers or self._random.random() > 0.1:
            return
        with contextlib.suppress(DecodeError):
            answer: Any = self._answers[path].FromString(data)
            for message in (answer, *(getattr(answer, name) for name in ("flag",) if hasattr(answer, name))):
                for name in _REMEMBERED:
                    self._odd.remember(name, getattr(message, name, ""))


async def _cancelled(sent: Any, call: Call) -> bytes:
    """Wait for a call's answer, or cancel it before."""
    if call.cancel_after is not None:
        await asyncio.sleep(call.cancel_after)
        sent.cancel()
    answer: bytes = await sent
    return answer
