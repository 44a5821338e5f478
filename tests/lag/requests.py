"""Every RPC and HTTP route of a server, as the descriptors list them, with a way to call it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from flagsvc.api.connect.methods import Method, methods_of
from flagsvc.api.flagd import evaluation, sync
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.grpc_listeners import OWN_FILES
from tests.connect.asking import framed
from tests.lag.messages import ALIKE, BY_HAND, FEW, Sizes, request_of

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
ALIKE_TIMES = 3
"""How often a request is sent that is always the same."""
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
OLDER_REFLECTION = REFLECTION.replace(".v1.", ".v1alpha.")
_GRPC_WEB, _JSON, _JSON_STREAM = "application/grpc-web+proto", "application/json", "application/connect+json"

V1, V2, SCHEMA = evaluation.FILES
"""flagd's evaluation services have the same handlers: each version is called over another wire."""


@dataclass(frozen=True)
class Row:
    """One way to call one path. `sizes`: the requests made by hand."""

    path: str
    call: Callable[[Sizes], Awaitable[object]]
    sizes: Sequence[Sizes]

    @property
    def is_searched(self) -> bool:
        """Whether requests of many sizes are tried."""
        return self.sizes is BY_HAND


class Requests:
    """All rows of one server, by name."""

    def __init__(self, port: int, ofrep_port: int, management_port: int, resume: int) -> None:
        """`resume`: the revision from which a watch resumes."""
        self._resume = resume
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", UNLIMITED)
        ports = {"front": port, "ofrep": ofrep_port, "management": management_port}
        self._http = {
            name: httpx.AsyncClient(base_url=f"http://127.0.0.1:{p}", timeout=60) for name, p in ports.items()
        }

    async def close(self) -> None:
        """End the connections."""
        await self._channel.close()
        for client in self._http.values():
            await client.aclose()

    def rows(self) -> dict[str, Row]:
        """Return a row at least for each RPC and each route."""
        own, over_grpc = methods_of(OWN_FILES), methods_of([V1, sync.FILE, health_pb2.DESCRIPTOR])
        found = {_name(method): self._over_grpc(method) for method in [*own.values(), *over_grpc.values()]}
        found |= self._watches(own["/flagsvc.v1.FlagService/WatchFlags"])
        found |= {"reflection": self._reflection(REFLECTION), "reflection v1alpha": self._reflection(OLDER_REFLECTION)}
        for files, words, wire in ((OWN_FILES, "JSON", _JSON), ([V2], "JSON", _JSON), ([SCHEMA], "Web", _GRPC_WEB)):
            for method in methods_of(files).values():
                found[f"{_name(method)}, {words}"] = self._over_http(method, wire)
        return found | self._routes()

    def _over_grpc(self, method: Method) -> Row:
        codec = {
            "request_serializer": method.request.SerializeToString,
            "response_deserializer": method.response.FromString,
        }
        if method.streams:
            open_stream: Any = self._channel.unary_stream(method.path, **codec)
            return Row(method.path, lambda s: _snapshot(open_stream(_request(method, s))), _sizes(method, BY_HAND))
        unary: Any = self._channel.unary_unary(method.path, **codec)
        return Row(method.path, lambda s: unary(_request(method, s)), _sizes(method, BY_HAND))

    def _watches(self, method: Method) -> dict[str, Row]:
        """Return the other forms of WatchFlags."""

        def row(request: pb.WatchFlagsRequest) -> Row:
            stream: Any = self._channel.unary_stream(
                method.path, pb.WatchFlagsRequest.SerializeToString, pb.WatchFlagsResponse.FromString
            )
            return Row(method.path, lambda _: _snapshot(stream(request)), _sizes(method, BY_HAND))

        return {
            "WatchFlags, one message": row(pb.WatchFlagsRequest()),
            "WatchFlags, resumed": row(pb.WatchFlagsRequest(resume_revision=self._resume)),
        }

    def _reflection(self, path: str) -> Row:
        stream: Any = self._channel.stream_stream(
            path,
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )

        async def requests() -> AsyncIterator[Message]:
            yield request_of(path, reflection_pb2.ServerReflectionRequest, Sizes())

        return Row(path, lambda _: _snapshot(stream(requests())), [Sizes()] * ALIKE_TIMES)

    def _over_http(self, method: Method, wire: str) -> Row:
        if wire == _JSON and method.streams:
            wire = _JSON_STREAM

        async def call(sizes: Sizes) -> object:
            request = _request(method, sizes)
            body = request.SerializeToString() if wire == _GRPC_WEB else MessageToJson(request, indent=None).encode()
            body = body if wire == _JSON else framed(body)
            return await self._posted("front", method.path, body, wire, streams=method.streams)

        return Row(method.path, call, _sizes(method, FEW))

    def _routes(self) -> dict[str, Row]:
        """Return OFREP's and the management port's routes."""

        async def posted(path: str, sizes: Sizes) -> object:
            body = json.dumps({"context": sizes.context()}, separators=(",", ":")).encode()
            return await self._posted("ofrep", path, body, "application/json")

        async def events(_: Sizes) -> None:
            async with self._http["ofrep"].stream("GET", "/ofrep/v1/sse") as answer:
                async for _ in answer.aiter_raw():
                    break

        one, bulk = "/ofrep/v1/evaluate/flags/{key}", "/ofrep/v1/evaluate/flags"
        alike = [Sizes()] * ALIKE_TIMES
        return {
            "OFREP evaluate": Row(one, lambda s: posted(one.format(key=s.key), s), BY_HAND),
            "OFREP bulk": Row(bulk, lambda s: posted(bulk, s), BY_HAND),
            "OFREP events": Row("/ofrep/v1/sse", events, alike),
            **{path: Row(path, self._getting(path), alike) for path in ("/metrics", "/healthz", "/readyz")},
        }

    def _getting(self, path: str) -> Callable[[Sizes], Awaitable[object]]:
        return lambda _: self._http["management"].get(path)

    async def _posted(self, port: str, path: str, body: bytes, wire: str, *, streams: bool = False) -> object:
        """Post a body; of a stream only the beginning is read."""
        headers = {"content-type": wire}
        if not streams:
            return await self._http[port].post(path, content=body, headers=headers)
        async with self._http[port].stream("POST", path, content=body, headers=headers) as answer:
            async for _ in answer.aiter_raw():
                break
        return answer.status_code


def _name(method: Method) -> str:
    service, _, name = method.path[1:].partition("/")
    return {"grpc.health.v1.Health": f"Health {name}"}.get(service, name)


def _request(method: Method, sizes: Sizes) -> Message:
    return request_of(method.path, method.request, sizes)


def _sizes(method: Method, sizes: Sequence[Sizes]) -> Sequence[Sizes]:
    times = 1 if sizes is FEW else ALIKE_TIMES
    return [Sizes()] * times if method.path.rpartition("/")[2] in ALIKE else sizes


async def _snapshot(stream: Any) -> None:
    """Read a stream's first message, or all of a snapshot."""
    async for message in stream:
        if not getattr(getattr(message, "snapshot", None), "more", False):
            break
    stream.cancel()
