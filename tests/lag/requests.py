"""Requests within all limits: for each method a few made by hand, and all that a choice of sizes can make."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
from google.protobuf import struct_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from flagsvc.api.common.values import to_value
from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as flagd
from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2_grpc as flagd_grpc
from flagsvc.generated.flagd.sync.v1 import sync_pb2 as sync
from flagsvc.generated.flagd.sync.v1 import sync_pb2_grpc as sync_grpc
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.lag.store import HOSTILE

KEYS = [*HOSTILE, "flag-1", "unknown"]
WITHOUT_SIZES = frozenset(
    {
        "WatchFlags in pages",
        "WatchFlags, one message",
        "WatchFlags, resumed",
        "VerifyCache",
        "Resync",
        "GetStatus",
        "GetMetadata",
        "Health",
        "OFREP events",
        "EventStream",
        "FetchAllFlags",
        "SyncFlags",
    }
)
"""Methods whose requests are all alike."""
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]


@dataclass(frozen=True)
class Sizes:
    """What a request is made of. Each method reads what it has a use for."""

    key: str = "flag-1"
    keys: int = 1
    same_keys: bool = False
    text: int = 0
    text_of: str = "a"
    elements: int = 0
    fields: int = 0
    variants: int = 0
    conditions: int = 0
    page: int = 0
    explain: bool = False
    min_revision: int = 0

    def context(self) -> dict[str, Any]:
        """Return a context, cut to what a call may carry."""
        context: dict[str, Any] = {"targetingKey": "user-1", "tier": "silver", "age": 17}
        context |= {f"f{i:x}": True for i in range(min(self.fields, 4_900))}
        left = 64_000 - len(json.dumps(context))
        elements = max(0, min(self.elements, 4_950 - len(context), left // 7))
        context["list"] = [0] * elements if self.text_of != "object" else [{"a": 1}] * (elements // 2)
        left = 64_000 - len(json.dumps(context))
        context["text"] = (self.text_of[:1] * self.text)[: max(0, left)]
        return context


def _message(context: dict[str, Any]) -> types.EvaluationContext:
    return types.EvaluationContext(attributes={name: to_value(value) for name, value in context.items()})


def _struct(context: dict[str, Any]) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update(context)
    return struct


class Requests:
    """All methods of one server, by name."""

    def __init__(self, port: int, ofrep_port: int, resume: int) -> None:
        """`resume`: the revision from which a watch resumes."""
        self._resume = resume
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", UNLIMITED)
        self._own = pb_grpc.FlagServiceStub(self._channel)
        self._flagd = flagd_grpc.ServiceStub(self._channel)
        self._sync = sync_grpc.FlagSyncServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self._http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{ofrep_port}", timeout=60)
        self._written = 0

    async def close(self) -> None:
        """End the connections."""
        await self._channel.close()
        await self._http.aclose()

    def methods(self) -> dict[str, Callable[[Sizes], Awaitable[object]]]:
        """Return a call for each method."""
        own, flagd_stub = self._own, self._flagd
        return {
            "EvaluateFlag": lambda s: own.EvaluateFlag(
                pb.EvaluateFlagRequest(
                    flag_key=s.key, context=_message(s.context()), explain=s.explain, min_revision=s.min_revision
                )
            ),
            "BatchEvaluateFlags": lambda s: own.BatchEvaluateFlags(
                pb.BatchEvaluateFlagsRequest(flag_keys=self._keys(s), context=_message(s.context()))
            ),
            "GetFlag": lambda s: own.GetFlag(pb.GetFlagRequest(flag_key=s.key)),
            "ListFlags": lambda s: own.ListFlags(pb.ListFlagsRequest(page_size=s.page)),
            "ListFlagHistory": lambda s: own.ListFlagHistory(
                pb.ListFlagHistoryRequest(flag_key=s.key, page_size=s.page)
            ),
            "CreateFlag": self._create,
            "UpdateFlag": lambda s: own.UpdateFlag(
                pb.UpdateFlagRequest(
                    flag=self._flag(s, "flag-1"),
                    update_mask={"paths": ["targeting", "config", "variants", "default_variant"]},
                )
            ),
            "ToggleFlag": lambda s: own.ToggleFlag(pb.ToggleFlagRequest(flag_key=s.key, enabled=True)),
            "DeleteFlag": lambda s: own.DeleteFlag(pb.DeleteFlagRequest(flag_key=f"flag-{200 + s.page}")),
            "WatchFlags in pages": lambda _: _snapshot(own.WatchFlags(pb.WatchFlagsRequest(paged_snapshots=True))),
            "WatchFlags, resumed": lambda _: _first(own.WatchFlags(pb.WatchFlagsRequest(resume_revision=self._resume))),
            "WatchFlags, one message": lambda _: _snapshot(own.WatchFlags(pb.WatchFlagsRequest())),
            "VerifyCache": lambda _: own.VerifyCache(pb.VerifyCacheRequest(repair=True)),
            "Resync": lambda _: own.Resync(pb.ResyncRequest(confirm=True)),
            "GetStatus": lambda _: own.GetStatus(pb.GetStatusRequest()),
            "ResolveBoolean": lambda s: flagd_stub.ResolveBoolean(
                flagd.ResolveBooleanRequest(flag_key=s.key, context=_struct(s.context()))
            ),
            "ResolveObject": lambda s: flagd_stub.ResolveObject(
                flagd.ResolveObjectRequest(flag_key=s.key, context=_struct(s.context()))
            ),
            "ResolveAll": lambda s: flagd_stub.ResolveAll(flagd.ResolveAllRequest(context=_struct(s.context()))),
            "EventStream": lambda _: _first(flagd_stub.EventStream(flagd.EventStreamRequest())),
            "FetchAllFlags": lambda _: self._sync.FetchAllFlags(sync.FetchAllFlagsRequest()),
            "SyncFlags": lambda _: _first(self._sync.SyncFlags(sync.SyncFlagsRequest())),
            "GetMetadata": lambda _: self._sync.GetMetadata(sync.GetMetadataRequest()),
            "Health": lambda _: self._health.Check(health_pb2.HealthCheckRequest()),
            "OFREP evaluate": lambda s: self._post(f"/ofrep/v1/evaluate/flags/{s.key}", s),
            "OFREP bulk": lambda s: self._post("/ofrep/v1/evaluate/flags", s),
            "OFREP events": lambda _: self._first_event(),
        }

    def _keys(self, sizes: Sizes) -> list[str]:
        return [sizes.key if sizes.same_keys or i < len(HOSTILE) else f"flag-{i}" for i in range(sizes.keys)]

    async def _create(self, sizes: Sizes) -> object:
        self._written += 1
        return await self._own.CreateFlag(pb.CreateFlagRequest(flag=self._flag(sizes, f"new-{self._written}")))

    def _flag(self, sizes: Sizes, key: str) -> types.Flag:
        conditions = [{"==": [{"var": "tier"}, f"t{i}"]} for i in range(min(sizes.conditions, 6_000))]
        flag = types.Flag(key=key)
        if conditions:
            flag.targeting = json.dumps({"if": [{"or": conditions}, "on", "off"]})
        for number in range(sizes.variants):
            flag.variants[f"v{number}"].CopyFrom(to_value({f"{i:x}": True for i in range(sizes.fields)}))
        if sizes.variants:
            flag.default_variant = "v0"
        elif sizes.fields or sizes.elements:
            config = {f"{i:x}": True for i in range(sizes.fields)} | {"l": [0] * sizes.elements}
            flag.config.CopyFrom(to_value(config))
        return flag

    async def _post(self, path: str, sizes: Sizes) -> object:
        return await self._http.post(path, content=json.dumps({"context": sizes.context()}, separators=(",", ":")))

    async def _first_event(self) -> None:
        async with self._http.stream("GET", "/ofrep/v1/sse") as events:
            async for _ in events.aiter_raw():
                break


async def _snapshot(stream: Any) -> None:
    async for message in stream:
        if not message.snapshot.more:
            break
    stream.cancel()


async def _first(stream: Any) -> None:
    async for _ in stream:
        break
    stream.cancel()


TEXT, LIST = Sizes(text=64_000), Sizes(elements=4_900)
BY_HAND: list[Sizes] = [
    *(Sizes(key=key, text=64_000) for key in KEYS),
    *(Sizes(key=key, text=29_999) for key in ("long-searches", "arithmetic")),
    *(Sizes(key=key, text=1_000, text_of=" ") for key in ("arithmetic",)),
    *(Sizes(key=key, elements=4_900) for key in ("loop", "loops", "texts", "most-parts")),
    Sizes(key="loop-of-objects", elements=4_900, text_of="object"),
    Sizes(fields=4_900),
    Sizes(key="most-parts", explain=True),
    Sizes(key="searches", text=64_000, explain=True),
    Sizes(key="searches", text=64_000, keys=25, same_keys=True),
    Sizes(key="large-value", keys=40, same_keys=True),
    Sizes(keys=1_000, text=40_000),
    Sizes(conditions=3_000),
    Sizes(conditions=6_000),
    Sizes(fields=19_000),
    Sizes(fields=80_000),
    Sizes(fields=4_900, variants=4),
    Sizes(elements=60_000),
    Sizes(page=1_000),
    Sizes(min_revision=10**6),
]
