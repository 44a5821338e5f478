"""What each RPC is sent, within all limits, made of a choice of sizes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from flagsvc.api.common.values import to_value
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import schedule_service_pb2 as plans
from flagsvc.generated.flagsvc.v1 import segment_service_pb2 as segments
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.lag.store import HOSTILE

KEYS = [*HOSTILE, "flag-1", "unknown"]
UPDATED = ["targeting", "config", "variants", "default_variant"]
_numbers = itertools.count(1)


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
    noted: bool = False
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

    def own_context(self) -> types.EvaluationContext:
        """Return the context as FlagService takes it."""
        return types.EvaluationContext(attributes={name: to_value(each) for name, each in self.context().items()})

    def flag_keys(self) -> list[str]:
        """Return keys for a batch."""
        return [self.key if self.same_keys or i < len(HOSTILE) else f"flag-{i}" for i in range(self.keys)]

    def flag(self, key: str) -> types.Flag:
        """Return a flag to write."""
        conditions: list[Any] = [{"==": [{"var": "tier"}, f"t{i}"]} for i in range(min(self.conditions, 6_000))]
        if self.noted:
            conditions = [{"if": [f"a text is a constant condition {i}", "on", "on"]} for i in range(self.conditions)]
        flag = types.Flag(key=key)
        if conditions:
            flag.targeting = json.dumps({"if": [{"or": conditions}, "on", "off"]})
        for number in range(self.variants):
            flag.variants[f"v{number}"].CopyFrom(to_value({f"{i:x}": True for i in range(self.fields)}))
        if self.variants:
            flag.default_variant = "v0"
        elif self.fields or self.elements:
            config = {f"{i:x}": True for i in range(self.fields)} | {"l": [0] * self.elements}
            flag.config.CopyFrom(to_value(config))
        return flag

    def segment(self, name: str) -> segments.Segment:
        """Return a segment to write, with the conditions of a flag, as many as it may have."""
        conditions: list[Any] = [{"==": [{"var": "tier"}, f"t{i}"]} for i in range(min(self.conditions, 2_000))]
        return segments.Segment(name=name, rule=json.dumps({"or": conditions or [True]}))

    def schedule(self, **fields: str) -> plans.Schedule:
        """Return a schedule to plan."""
        mask, patch = {"paths": UPDATED}, self.flag("")
        return plans.Schedule(patch=patch, update_mask=mask, local_time="2030-12-01T09:00", **fields)  # type: ignore[arg-type]


OWN: dict[str, Callable[[Sizes], Message]] = {
    "EvaluateFlag": lambda s: pb.EvaluateFlagRequest(
        flag_key=s.key, context=s.own_context(), explain=s.explain, min_revision=s.min_revision
    ),
    "BatchEvaluateFlags": lambda s: pb.BatchEvaluateFlagsRequest(flag_keys=s.flag_keys(), context=s.own_context()),
    "GetFlag": lambda s: pb.GetFlagRequest(flag_key=s.key),
    "ListFlags": lambda s: pb.ListFlagsRequest(page_size=s.page),
    "ListFlagRevisions": lambda s: pb.ListFlagRevisionsRequest(flag_key=s.key, page_size=s.page),
    "RollbackFlag": lambda s: pb.RollbackFlagRequest(flag_key=s.key, revision=1_000),
    "RollbackFlagSet": lambda s: pb.RollbackFlagSetRequest(revision=1_000 + s.page, validate_only=s.explain),
    "ListFlagHistory": lambda s: pb.ListFlagHistoryRequest(flag_key=s.key, page_size=s.page),
    "CreateFlag": lambda s: pb.CreateFlagRequest(flag=s.flag(f"new-{next(_numbers)}")),
    "UpdateFlag": lambda s: pb.UpdateFlagRequest(flag=s.flag("flag-1"), update_mask={"paths": UPDATED}),
    "ToggleFlag": lambda s: pb.ToggleFlagRequest(flag_key=s.key, enabled=True),
    "DeleteFlag": lambda s: pb.DeleteFlagRequest(flag_key=f"flag-{200 + s.page}"),
    "WatchFlags": lambda _: pb.WatchFlagsRequest(paged_snapshots=True),
    "VerifyCache": lambda _: pb.VerifyCacheRequest(repair=True),
    "Resync": lambda _: pb.ResyncRequest(confirm=True),
    "GetStatus": lambda _: pb.GetStatusRequest(),
    "GetBucketing": lambda _: pb.GetBucketingRequest(),
    "SetBucketing": lambda _: pb.SetBucketingRequest(bucketing=2 + next(_numbers) % 2, force=True),
}
"""FlagService's requests by the name of the RPC."""
PLANS: dict[str, Callable[[Sizes], Message]] = {
    "CreateSchedule": lambda s: plans.CreateScheduleRequest(schedule=s.schedule(flag_key="flag-1")),
    "UpdateSchedule": lambda s: plans.UpdateScheduleRequest(
        schedule=s.schedule(id="a"), update_mask={"paths": ["patch"]}
    ),
    "ListSchedules": lambda s: plans.ListSchedulesRequest(page_size=s.page),
    "GetSchedule": lambda _: plans.GetScheduleRequest(id="a"),
    "CancelSchedule": lambda _: plans.CancelScheduleRequest(id="a"),
    "ExecuteSchedule": lambda _: plans.ExecuteScheduleRequest(id="a"),
}
"""ScheduleService's."""
SEGMENTS: dict[str, Callable[[Sizes], Message]] = {
    "CreateSegment": lambda s: segments.CreateSegmentRequest(segment=s.segment(f"new-{next(_numbers)}")),
    "UpdateSegment": lambda s: segments.UpdateSegmentRequest(
        segment=s.segment("shared"), update_mask={"paths": ["rule"]}, validate_only=s.explain
    ),
    "ListSegments": lambda s: segments.ListSegmentsRequest(page_size=s.page),
    "GetSegment": lambda _: segments.GetSegmentRequest(name="shared"),
    "DeleteSegment": lambda _: segments.DeleteSegmentRequest(name="shared", validate_only=True),
}
"""SegmentService's."""
_KEY_AND_CONTEXT = frozenset({"ResolveBoolean", "ResolveString", "ResolveInt", "ResolveFloat", "ResolveObject"})
_OTHERS: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("EventStream", "FetchAllFlags", "SyncFlags", "GetMetadata", "Check", "List", "Watch")},
    **{f"{verb}Token": {} for verb in ("Create", "Get", "Update", "Rotate", "Revoke")},
    **{name: {} for name in ("ListTokens", "DenyIdentity", "AllowIdentity", "ListDeniedIdentities")},
    "GetCaller": {},
    "ListAuditEntries": {"pageSize": 1_000},
    **{f"{verb}Rollout": {"flagKey": "rolling"} for verb in ("Get", "Pause", "Resume", "Rollback")},
    "ServerReflectionInfo": {"fileContainingSymbol": "flagsvc.v1.FlagService"},
}
ALIKE = _OTHERS.keys() | {
    "WatchFlags", "VerifyCache", "Resync", "GetStatus", "GetBucketing", "SetBucketing",
}  # fmt: skip
"""RPCs whose requests are all alike."""


def request_of(path: str, message_type: type[Message], sizes: Sizes) -> Message:
    """Return the request of an RPC. Raises KeyError for one that is not listed here: how may it be abused?"""
    service, _, name = path[1:].partition("/")
    if service == pb.DESCRIPTOR.services_by_name["FlagService"].full_name:
        return OWN[name](sizes)
    if service == plans.DESCRIPTOR.services_by_name["ScheduleService"].full_name:
        return PLANS[name](sizes)
    if service == segments.DESCRIPTOR.services_by_name["SegmentService"].full_name:
        return SEGMENTS[name](sizes)
    if name in _KEY_AND_CONTEXT:
        return ParseDict({"flagKey": sizes.key, "context": sizes.context()}, message_type())
    if name == "ResolveAll":
        return ParseDict({"context": sizes.context()}, message_type())
    return ParseDict(_OTHERS[name], message_type())


TEXT, LIST = Sizes(text=64_000), Sizes(elements=4_900)
BY_HAND: list[Sizes] = [
    *(Sizes(key=key, text=64_000) for key in KEYS),
    *(Sizes(key=key, text=29_999) for key in ("long-searches", "arithmetic")),
    *(Sizes(key=key, text=1_000, text_of=" ") for key in ("arithmetic",)),
    *(Sizes(key=key, text=255, text_of="9") for key in ("arithmetic", "texts")),
    *(Sizes(key=key, elements=4_900) for key in ("loop", "loops", "texts", "most-parts")),
    Sizes(key="loop-of-objects", elements=4_900, text_of="object"),
    Sizes(fields=4_900),
    Sizes(key="most-parts", explain=True),
    Sizes(key="searches", text=64_000, explain=True),
    Sizes(key="noted", explain=True),
    Sizes(key="searches", text=64_000, keys=25, same_keys=True),
    Sizes(key="large-value", keys=40, same_keys=True),
    Sizes(keys=1_000, text=40_000),
    Sizes(conditions=3_000),
    Sizes(conditions=6_000),
    Sizes(conditions=2_500, noted=True),
    Sizes(fields=19_000),
    Sizes(fields=80_000),
    Sizes(fields=4_900, variants=4),
    Sizes(elements=60_000),
    Sizes(page=1_000),
    Sizes(min_revision=10**6),
]
FEW: list[Sizes] = [
    Sizes(key="loop", elements=4_900),
    Sizes(key="long-value", text=64_000),
    Sizes(key="large-value", fields=4_900),
    Sizes(fields=19_000),
    Sizes(key="most-parts", conditions=2_500, noted=True, page=1_000, explain=True),
]
"""For what differs from a method of BY_HAND in its wire only."""
