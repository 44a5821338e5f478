"""Typed uses of every public name of the Python client. mypy checks this file; nothing runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, assert_type

import flagsvc_client
import grpc
from flagsvc_client import (
    AsyncFlagClient,
    Change,
    ClientEvent,
    DeadlineExceeded,
    ErrorCode,
    Evaluated,
    EvaluationContext,
    EvaluationDetails,
    Flag,
    FlagClient,
    FlagConflict,
    FlagExists,
    FlagFields,
    FlagNotFound,
    FlagRevision,
    FlagServiceError,
    HistoryEntry,
    Hook,
    InvalidArgument,
    OnConflict,
    PermissionDenied,
    RateLimited,
    Reason,
    RolledBackFlag,
    RolledBackSegment,
    RolloutState,
    RolloutStatus,
    Schedule,
    ScheduleState,
    Segment,
    SegmentUpdate,
    SegmentUsers,
    SetRollback,
    Snapshot,
    Source,
    Status,
    Tls,
    TokenFile,
    TypeMismatch,
    Unauthenticated,
    Unavailable,
    Violation,
    WriteLevel,
    WriteResult,
    context_scope,
)
from flagsvc_client.guards import (
    FeatureCheckFailed,
    FeatureDisabled,
    Refusal,
    Rule,
    Rules,
    context_of_metadata,
    require_feature,
)
from flagsvc_client.guards import aio as aio_guards
from flagsvc_client.guards import sync as sync_guards
from flagsvc_client.guards.asgi import RequireFeature
from flagsvc_client.guards.calling import CallGuard, call_guards
from flagsvc_client.openfeature import FlagsvcProvider

assert_type(flagsvc_client.__version__, str)


def on_event(event: ClientEvent) -> None:
    assert_type(event.keys, frozenset[str])
    assert_type(event.message, str)


def credentials() -> None:
    tls = Tls(ca="ca.crt", certificate="client.crt", key="client.key", server_name="flags")
    assert_type(TokenFile("token")(), str)
    assert_type(FlagClient("flags:8013", tls=tls, token=TokenFile("token")), FlagClient)


def synchronous(flag: Flag, context: EvaluationContext) -> None:
    with FlagClient("127.0.0.1:8013", local=True, snapshot_file="flags.snapshot", on_event=on_event) as client:
        assert_type(client, FlagClient)
        assert_type(client.is_enabled("a", {"targetingKey": "user-1"}), bool)
        assert_type(client.get_bool("a", context, default=False), bool)
        assert_type(client.get_str("a", default="x", timeout_s=0.1), str)
        assert_type(client.get_int("a", default=1, min_revision=7), int)
        assert_type(client.get_float("a", default=1), float)
        assert_type(client.get_object("a", default={"a": 1}), Mapping[str, Any])
        assert_type(client.details("a", default="x"), EvaluationDetails[str])
        assert_type(client.batch(["a"]), dict[str, EvaluationDetails[Any]])
        assert_type(client.flag("a"), Flag)
        assert_type(client.flags(), list[Flag])
        assert_type(client.history("a", limit=1), list[HistoryEntry])
        planned = client.schedule("a", datetime.now(UTC), on_conflict=OnConflict.SKIP, status="ENABLED")
        assert_type(planned, Schedule)
        assert_type(planned.state, ScheduleState)
        assert_type(client.get_schedule(planned.id), Schedule)
        assert_type(client.schedules("a", [ScheduleState.PENDING]), list[Schedule])
        assert_type(client.move_schedule(planned.id, datetime.now(UTC), zone="Europe/Berlin"), Schedule)
        assert_type(client.execute_schedule(planned.id, reason="now", request_id="r-3"), Schedule)
        assert_type(client.cancel_schedule(planned.id, request_id="r-4"), Schedule)
        assert_type(client.revisions("a", limit=1), list[FlagRevision])
        assert_type(client.flag_at("a", 7), Flag)
        assert_type(client.details_at("a", datetime.now(UTC), context, default=True), EvaluationDetails[bool])
        assert_type((client.batch_at(7, ["a"], context))["a"].value, Any)
        assert_type(client.rollback("a", 7, etag='"9"', request_id="r-1"), WriteResult)
        moving = client.rollout("a")
        assert_type(moving, RolloutStatus)
        assert_type(moving.state, RolloutState)
        assert_type(client.start_rollout("a", "off", "on", steps=[(timedelta(0), 1.5)]), WriteResult)
        assert_type(client.start_rollout("a", "off", "on", over=timedelta(days=3)), WriteResult)
        assert_type(client.pause_rollout("a", validate_only=True), WriteResult)
        assert_type(client.resume_rollout("a", request_id="r-2"), WriteResult)
        assert_type(client.rollback_rollout("a", over=timedelta(0), etag='"9"'), WriteResult)
        rolled_back = client.rollback_set(7, request_id="r-5")
        assert_type(rolled_back, SetRollback)
        assert_type(rolled_back.flags[0], RolledBackFlag)
        assert_type(client.create(flag, wait_for=WriteLevel.APPLIED, wait_timeout_s=1), WriteResult)
        assert_type(client.update(flag, ["name"], etag="1", reason="launch"), WriteResult)
        assert_type(client.set("a", status="BETA", reason="launch"), WriteResult)
        assert_type(client.toggle("a", True, on_behalf_of="anna"), WriteResult)
        assert_type(client.delete("a"), WriteResult)
        assert_type(client.ready, bool)
        assert_type(client.is_local, bool)
        assert_type(client.listen(on_event), Callable[[], None])
        client.open()
        assert_type(client.wait_ready(1.0), bool)
        assert_type(client.state, Literal["starting", "ready", "stale", "error", "closed"])
        for event in client.watch():
            assert_type(event, Snapshot | Change)
        client.close()


def synchronous_segments(client: FlagClient) -> None:
    assert_type(client.rollback_set(7).segments[0:], Sequence[RolledBackSegment])
    assert_type(client.create_segment("pro", "true", description="Who pays"), Segment)
    assert_type(client.segments(), list[Segment])
    assert_type(client.segment("pro").revision, int)
    assert_type(client.segment_users("pro"), SegmentUsers)
    assert_type(client.update_segment("pro", rule="false", validate_only=True), SegmentUpdate)
    client.delete_segment("pro", etag=client.segment("pro").etag)


async def asynchronous_segments(client: AsyncFlagClient) -> None:
    assert_type(await client.create_segment("pro", "true", description="Who pays"), Segment)
    assert_type(await client.segments(), list[Segment])
    assert_type((await client.segment("pro")).revision, int)
    assert_type(await client.segment_users("pro"), SegmentUsers)
    assert_type(await client.update_segment("pro", rule="false", validate_only=True), SegmentUpdate)
    await client.delete_segment("pro", reason="not used")


async def asynchronous(flag: Flag, context: EvaluationContext) -> None:
    async with AsyncFlagClient(
        "127.0.0.1:8013", local=True, snapshot_file="flags.snapshot", on_event=on_event
    ) as client:
        assert_type(client, AsyncFlagClient)
        assert_type(await client.is_enabled("a", {"targetingKey": "user-1"}), bool)
        assert_type(await client.get_bool("a", context, default=False), bool)
        assert_type(await client.get_str("a", default="x", timeout_s=0.1), str)
        assert_type(await client.get_int("a", default=1, min_revision=7), int)
        assert_type(await client.get_float("a", default=1), float)
        assert_type(await client.get_object("a", default={"a": 1}), Mapping[str, Any])
        assert_type(await client.details("a", default="x"), EvaluationDetails[str])
        assert_type(await client.batch(["a"]), dict[str, EvaluationDetails[Any]])
        assert_type(await client.flag("a"), Flag)
        assert_type(await client.flags(), list[Flag])
        assert_type(await client.history("a", limit=1), list[HistoryEntry])
        planned = await client.schedule("a", datetime.now(UTC), on_conflict=OnConflict.SKIP, status="ENABLED")
        assert_type(planned, Schedule)
        assert_type(planned.state, ScheduleState)
        assert_type(await client.get_schedule(planned.id), Schedule)
        assert_type(await client.schedules("a", [ScheduleState.PENDING]), list[Schedule])
        assert_type(await client.move_schedule(planned.id, datetime.now(UTC), zone="Europe/Berlin"), Schedule)
        assert_type(await client.execute_schedule(planned.id, reason="now", request_id="r-3"), Schedule)
        assert_type(await client.cancel_schedule(planned.id, request_id="r-4"), Schedule)
        assert_type(await client.revisions("a", limit=1), list[FlagRevision])
        assert_type(await client.flag_at("a", 7), Flag)
        assert_type(await client.details_at("a", datetime.now(UTC), context, default=True), EvaluationDetails[bool])
        assert_type((await client.batch_at(7, ["a"], context))["a"].value, Any)
        assert_type(await client.rollback("a", 7, etag='"9"', request_id="r-1"), WriteResult)
        moving = await client.rollout("a")
        assert_type(moving, RolloutStatus)
        assert_type(moving.state, RolloutState)
        assert_type(await client.start_rollout("a", "off", "on", steps=[(timedelta(0), 1.5)]), WriteResult)
        assert_type(await client.start_rollout("a", "off", "on", over=timedelta(days=3)), WriteResult)
        assert_type(await client.pause_rollout("a", validate_only=True), WriteResult)
        assert_type(await client.resume_rollout("a", request_id="r-2"), WriteResult)
        assert_type(await client.rollback_rollout("a", over=timedelta(0), etag='"9"'), WriteResult)
        rolled_back = await client.rollback_set(7, request_id="r-5")
        assert_type(rolled_back, SetRollback)
        assert_type(rolled_back.flags[0], RolledBackFlag)
        assert_type(await client.create(flag, wait_for=WriteLevel.APPLIED, wait_timeout_s=1), WriteResult)
        assert_type(await client.update(flag, ["name"], etag="1", reason="launch"), WriteResult)
        assert_type(await client.set("a", status="BETA", reason="launch"), WriteResult)
        assert_type(await client.toggle("a", True, on_behalf_of="anna"), WriteResult)
        assert_type(await client.delete("a"), WriteResult)
        assert_type(client.ready, bool)
        assert_type(client.is_local, bool)
        assert_type(client.listen(on_event), Callable[[], None])
        await client.open()
        assert_type(await client.wait_ready(1.0), bool)
        assert_type(client.state, Literal["starting", "ready", "stale", "error", "closed"])
        async for event in client.watch():
            assert_type(event, Snapshot | Change)
        await client.close()


def results(found: EvaluationDetails[int], written: WriteResult, entry: HistoryEntry, event: Snapshot | Change) -> None:
    assert_type(found.value, int)
    assert_type(found.variant, str | None)
    assert_type(found.reason, Reason)
    assert_type(found.error_code, ErrorCode | None)
    assert_type(found.flag_metadata, Mapping[str, Any])
    assert_type(found.source, Source)
    assert_type(found.enabled, bool)
    assert_type(written.flag, Flag | None)
    assert_type(written.reached, WriteLevel | None)
    assert_type(written.rollout, RolloutStatus | None)
    assert_type(written.lagging, tuple[str, ...])
    assert_type(entry.action, str)
    assert_type(event.revision, int)
    if written.flag is not None:
        assert_type(written.flag.status, Status)


def telemetry(evaluated: Evaluated) -> None:
    assert_type(evaluated.details, EvaluationDetails[Any])
    assert_type(evaluated.flag_set, str)


def around(hook: Hook, fields: FlagFields) -> None:
    with context_scope({"targetingKey": "user-1"}), FlagClient("127.0.0.1:8013", hooks=[hook, telemetry]) as client:
        client.set("a", **fields)


KINDS: tuple[type[FlagServiceError], ...] = (
    *(FlagNotFound, FlagExists, FlagConflict, TypeMismatch, InvalidArgument, PermissionDenied, Unauthenticated),
    *(Unavailable, DeadlineExceeded, RateLimited),
)


def failures(error: FlagServiceError) -> None:
    assert_type(error.code, grpc.StatusCode)
    assert_type(error.violations, tuple[Violation, ...])
    assert_type(error.violations[0].field, str)
    assert_type(error.retry_after_s, float | None)


def guards(client: FlagClient, aio_client: AsyncFlagClient) -> None:
    rules = Rules({"/shop.Checkout/*": Rule("checkout-v2", on_trouble="open"), "/shop.Checkout/Ping": None})
    assert_type(rules.of("/shop.Checkout/Pay"), Rule | None)
    refusal = Refusal("checkout-v2", "FEATURE_DISABLED")
    assert_type(refusal.code, grpc.StatusCode)
    assert_type(refusal.error(), FeatureDisabled | FeatureCheckFailed)
    sync_guards.FlagGuard(client, rules.table, context_of=context_of_metadata, end_streams=True)
    aio_guards.FlagGuard(aio_client, rules.table, context_of=context_of_metadata, end_streams=True)
    CallGuard(client, {"/shop.Checkout/*": "checkout-v2"})
    assert_type(call_guards(aio_client, rules.table), list[grpc.aio.ClientInterceptor])
    RequireFeature(aio_client, "checkout-v2")
    FlagsvcProvider("127.0.0.1:8013", local=True)
    FlagsvcProvider(client=client)

    @require_feature("checkout-v2", client=client)
    def pay(cents: int) -> str:
        return str(cents)

    assert_type(pay(1), str)
