"""A server that remembers answers, and what asks it about many flags over every protocol, with its right answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
from google.protobuf import struct_pb2

from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as v1
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.generated.schema.v1 import schema_pb2 as schema
from flagsvc.server import Server
from flagsvc.telemetry import Sample
from tests.ofrep.asking import FLAGS_PATH
from tests.replicas import Client

Headers = Sequence[tuple[str, str]]
TIER = json.dumps({"if": [{"==": [{"var": "tier"}, "gold"]}, "on", "off"]})
PROTOCOLS = {"flagd.evaluation.v1.Service": v1, "schema.v1.Service": schema}


def selecting(flag_set: str) -> Headers:
    return [("flagd-selector", f"flagSetId={flag_set}")]


@dataclass
class Site:
    """A server, with a client of its gRPC port, one of its sync port, and one of OFREP."""

    client: Client
    sync: grpc.aio.Channel
    http: httpx.AsyncClient
    server: Server

    async def all(
        self,
        context: Mapping[str, Any] | None = None,
        headers: Headers = (),
        *,
        service: str = "flagd.evaluation.v1.Service",
        channel: grpc.aio.Channel | None = None,
    ) -> Any:
        """Ask flagd's ResolveAll."""
        messages = PROTOCOLS[service]
        call = (channel or self.client.channel).unary_unary(
            f"/{service}/ResolveAll",
            messages.ResolveAllRequest.SerializeToString,
            messages.ResolveAllResponse.FromString,
        )
        fields = struct_pb2.Struct()
        fields.update(context or {})
        return await call(messages.ResolveAllRequest(context=fields), metadata=list(headers), timeout=10)

    async def values(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Return the boolean values that ResolveAll answers, by key."""
        return {key: flag.bool_value for key, flag in (await self.all(*arguments, **options)).flags.items()}

    async def batch(self, keys: Sequence[str] = (), headers: Headers = (), **fields: Any) -> list[pb.FlagEvaluation]:
        """Ask BatchEvaluateFlags."""
        request = pb.BatchEvaluateFlagsRequest(flag_keys=keys, **fields)
        found = await self.client.stub.BatchEvaluateFlags(request, metadata=list(headers), timeout=10)
        return list(found.evaluations)

    async def page(self, context: Mapping[str, Any] | None = None, headers: Headers = ()) -> dict[str, Any]:
        """Ask OFREP for all flags; return their values by key."""
        answer = await self.http.post(FLAGS_PATH, json={"context": context or {}}, headers=list(headers))
        assert answer.status_code == 200, answer.text
        return {each["key"]: each.get("value") for each in answer.json()["flags"]}

    async def create(self, key: str, flag_set: str = "", headers: Headers = (), **fields: Any) -> None:
        flag = types.Flag(key=key, flag_set=flag_set, status=types.FLAG_STATUS_ENABLED, **fields)
        await self.client.stub.CreateFlag(pb.CreateFlagRequest(flag=flag), metadata=list(headers), timeout=10)

    @property
    def hits(self) -> float:
        """How many calls were answered from memory so far."""
        return self.sample("flagsvc_answer_cache_calls_total", result="hit")

    def sample(self, name: str, **labels: str) -> float:
        found: list[Sample] = self.server._metrics.samples()
        return sum(each.value for each in found if each.name == name and labels.items() <= each.labels.items())
