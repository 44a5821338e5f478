"""Clients of flagd's protocols for end-to-end tests, with one interface for all versions."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict

from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as v1
from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2_grpc as v1_grpc
from flagsvc.generated.flagd.evaluation.v2 import evaluation_pb2 as v2
from flagsvc.generated.flagd.evaluation.v2 import evaluation_pb2_grpc as v2_grpc
from flagsvc.generated.schema.v1 import schema_pb2 as schema
from flagsvc.generated.schema.v1 import schema_pb2_grpc as schema_grpc

VERSIONS = {"v1": (v1, v1_grpc), "v2": (v2, v2_grpc), "schema": (schema, schema_grpc)}
Metadata = tuple[tuple[str, str], ...]


def selecting(text: str) -> Metadata:
    """Headers with a selector."""
    return (("flagd-selector", text),)


class Evaluator:
    """One version of flagd's evaluation service."""

    def __init__(self, version: str, channel: grpc.aio.Channel) -> None:
        self.messages, stubs = VERSIONS[version]
        self.stub: Any = stubs.ServiceStub(channel)

    async def resolve(
        self, kind: str, key: str, context: dict[str, Any] | None = None, headers: Metadata = ()
    ) -> dict[str, Any]:
        """Resolve a flag; return the response's fields as JSON, as they were sent: unset and zero ones are missing."""
        request = ParseDict(
            {"flagKey": key, "context": context or {}}, getattr(self.messages, f"Resolve{kind}Request")()
        )
        response = await getattr(self.stub, f"Resolve{kind}")(request, metadata=headers, timeout=5)
        return MessageToDict(response)

    async def resolve_all(self, context: dict[str, Any] | None = None, headers: Metadata = ()) -> dict[str, Any]:
        """Resolve a set; the answer as JSON."""
        request = ParseDict({"context": context or {}}, self.messages.ResolveAllRequest())
        return MessageToDict(await self.stub.ResolveAll(request, metadata=headers, timeout=5))

    def events(self, headers: Metadata = ()) -> Events:
        """Open an event stream."""
        return Events(self.stub.EventStream(self.messages.EventStreamRequest(), metadata=headers))


class Events:
    """An event stream."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def next(self) -> tuple[str, dict[str, str]]:
        """Return the next event's type and the kind of change of each key."""
        message = await self.call.read()
        assert message is not grpc.aio.EOF
        flags = MessageToDict(message).get("data", {}).get("flags", {})
        return message.type, {key: change["type"] for key, change in flags.items()}


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    """Return the status and text of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""
