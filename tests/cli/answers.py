"""A server in this process, whose answers are fixed, for tests of what commands print."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status as RpcStatus

from flagsvc.api.common.values import to_value
from flagsvc.api.flag_service.flag_messages import flag_to_message
from flagsvc.cli import calls
from flagsvc.core.model import Flag, Status
from flagsvc.generated.flagsvc.v1 import audit_service_pb2 as audit
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import rollout_service_pb2 as rollouts
from flagsvc.generated.flagsvc.v1 import schedule_service_pb2 as plans
from flagsvc.generated.flagsvc.v1 import segment_service_pb2 as segments
from flagsvc.generated.flagsvc.v1 import token_service_pb2 as tokens
from flagsvc.generated.flagsvc.v1 import types_pb2 as types

NOW = datetime(2026, 11, 30, 3, 4, 5, tzinfo=UTC)


def ago(**time: float) -> datetime:
    return NOW - timedelta(**time)


FLAGS = (
    Flag(key="checkout-v2", name="New checkout", status=Status.ENABLED, revision=46, updated_at=ago(minutes=5)),
    Flag(
        key="banner-text-of-the-start-page-in-all-languages",
        name="Text of the banner 日本語",
        category="marketing",
        status=Status.BETA,
        revision=31,
        updated_at=ago(days=3),
    ),
    Flag(key="file-upload", name="Upload of files", category="core", revision=7, updated_at=ago(days=400)),
    Flag(key="old", status=Status.DEPRECATED),
)
RULE = '{"fractional":[["on",10],["off",90]]}'


def entry(revision: int, action: str, previous: Any, new: Any, at: datetime, **more: str) -> pb.HistoryEntry:
    sides = {"previous_value": previous, "new_value": new}
    values = {name: to_value(value) for name, value in sides.items() if value is not None}
    made = pb.HistoryEntry(flag_key="checkout-v2", action=action, revision=revision, **values, **more)
    made.created_at.FromDatetime(at)
    return made


TOGGLED = entry(
    *(47, "DISABLED", {"status": "ENABLED"}, {"status": "DISABLED"}, ago(seconds=20)),
    actor="token:8VqkQ2mN1xYz",
    on_behalf_of="ann",
    reason="error rate of payments over 5 % since the release of this morning, see the incident channel",
)
HISTORY = (
    TOGGLED,
    entry(46, "UPDATED", {"targeting": None}, {"targeting": RULE}, ago(minutes=5), actor="bob"),
    entry(1, "CREATED", None, {"name": "New checkout", "status": "ENABLED"}, ago(days=90), actor="import"),
)


def audited(
    action: str,
    subject: str,
    at: datetime,
    outcome: audit.AuditOutcome.ValueType = audit.AUDIT_OUTCOME_DONE,
    **more: Any,
) -> audit.AuditEntry:
    made = audit.AuditEntry(action=action, subject=subject, outcome=outcome, **more)
    made.time.FromDatetime(at)
    return made


AUDIT = (
    audited(
        "DISABLED",
        "checkout-v2",
        ago(seconds=20),
        actor=TOGGLED.actor,
        on_behalf_of="ann",
        reason=TOGGLED.reason,
        flag_set="default",
        revision=47,
    ),
    audited("RevokeToken", "8VqkQ2mN1xYz", ago(minutes=2), actor="token:first0000000"),
    audited(
        "DeleteFlag",
        "file-upload",
        ago(minutes=50),
        audit.AUDIT_OUTCOME_REFUSED,
        actor="10.0.0.0/24",
        flag_set="staging",
        reason="no credential",
    ),
)


def replica(name: str, **more: Any) -> pb.ReplicaStatus:
    fields: dict[str, Any] = {
        "version": "0.1.0",
        "reported_ms_ago": 300,
        "revisions": {"default": 47},
        "view_age_ms": 120,
        "flags": 7,
        "staleness_bound_ms": 5_000,
        "change_feed": pb.CHANGE_FEED_STREAM,
        **dict.fromkeys(("ready", "store_up", "cache_up", "subscription_up", "change_feed_up"), True),
    }
    made = pb.ReplicaStatus(replica=name, **{**fields, **more})
    made.started_at.FromDatetime(ago(days=1, hours=2))
    return made


REPLICAS = (
    replica("flagsvc-6d9f7c5b4-2xk8p-1cc4", holds_cache_lease=True),
    replica("flagsvc-6d9f7c5b4-9qlmn-77a0", reported_ms_ago=8_500),
    replica("flagsvc-6d9f7c5b4-zz4rt-0b1d", view_age_ms=9_000, store_up=False, change_feed_up=False),
)


def token(token_id: str, name: str, role: tokens.Role.ValueType, made: datetime, **more: Any) -> tokens.Token:
    times = {field: more.pop(field) for field in ("expire_time", "revoke_time") if field in more}
    found = tokens.Token(id=token_id, name=name, role=role, created_by="token:first0000000", **more)
    for field, moment in {**times, "create_time": made}.items():
        getattr(found, field).FromDatetime(moment)
    return found


TOKENS = (
    token("first0000000", "admin", tokens.ROLE_ADMIN, ago(days=90), flag_sets=["*"], last_used_day="2026-11-30"),
    token(
        "8VqkQ2mN1xYz",
        "checkout service of the payments team",
        tokens.ROLE_EVALUATE,
        ago(days=3),
        flag_sets=["default", "team-payments-*"],
        expire_time=NOW + timedelta(days=87),
    ),
    token("nK3wVb90aPqr", "ci", tokens.ROLE_WRITE, ago(days=40), flag_sets=["staging"], expire_time=ago(days=1)),
    token("zT7yHd21mLcs", "old", tokens.ROLE_READ, ago(days=50), flag_sets=["*"], revoke_time=ago(hours=2)),
)


def segment(name: str, rule: str, description: str, revision: int) -> segments.Segment:
    found = segments.Segment(name=name, flag_set="default", rule=rule, description=description, revision=revision)
    found.etag = f'"{revision}"'
    found.create_time.FromDatetime(ago(days=30))
    found.update_time.FromDatetime(ago(hours=5))
    return found


SEGMENTS = [
    segment("big-pro", '{"and":[{"$ref":"segment:pro"},{">":[{"var":"seats"},100]}]}', "", 44),
    segment("pro", '{"in":[{"var":"plan"},["pro","enterprise"]]}', "Who pays for it", 46),
]


def schedule(schedule_id: str, key: str, at: datetime, state: plans.ScheduleState.ValueType, **more: Any) -> Any:
    found = plans.Schedule(
        id=schedule_id, flag_key=key, state=state, time_zone="Europe/Berlin", created_by="token:8VqkQ2mN1xYz", **more
    )
    found.execute_time.FromDatetime(at)
    found.create_time.FromDatetime(ago(days=1))
    found.local_time = f"{at + timedelta(hours=1):%Y-%m-%dT%H:%M:%S}+01:00"
    return found


def in_days(days: float) -> datetime:
    return NOW + timedelta(days=days)


SCHEDULES = (
    schedule(
        *("k3v9x0p2q7wd", "checkout-v2", ago(hours=2), plans.SCHEDULE_STATE_HELD),
        patch=types.Flag(status=types.FLAG_STATUS_ENABLED),
        update_mask={"paths": ["status"]},
    ),
    schedule(
        *("a81mz5t0rc4e", "checkout-v2", in_days(1), plans.SCHEDULE_STATE_PENDING),
        patch=types.Flag(status=types.FLAG_STATUS_DISABLED, owner="payments"),
        update_mask={"paths": ["status", "owner"]},
        reason="end of the campaign of the payments team",
    ),
)


class LostError(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE


class RefusedError(grpc.RpcError):
    """A call that a server refuses, with a reason."""

    def __init__(self, code: grpc.StatusCode, reason: str, text: str) -> None:
        super().__init__(text)
        self.code, self.details = lambda: code, lambda: text
        detail = AnyMessage()
        detail.Pack(ErrorInfo(reason=reason, domain="flagsvc"))
        trailer = RpcStatus(details=[detail]).SerializeToString()
        self.trailing_metadata = lambda: (("grpc-status-details-bin", trailer),)


class Server:
    """Answers as a server would. The watch is lost once, and then ended by Ctrl-C."""

    def __init__(self) -> None:
        self._watches = [self._first_watch, self._second_watch]

    def ListFlags(self, _: Any, timeout: float) -> Any:  # noqa: N802
        return pb.ListFlagsResponse(flags=map(flag_to_message, FLAGS))

    def GetFlag(self, request: Any, timeout: float) -> Any:  # noqa: N802
        found = next((flag for flag in FLAGS if flag.key == request.flag_key), None)
        if found is None:
            text = f'Feature flag with key "{request.flag_key}" not found'
            raise RefusedError(grpc.StatusCode.NOT_FOUND, "FLAG_NOT_FOUND", text)
        return pb.GetFlagResponse(flag=flag_to_message(found))

    def UpdateFlag(self, request: Any, timeout: float) -> Any:  # noqa: N802
        changed = f'Feature flag "{request.flag.key}" is at etag "47", not {request.flag.etag}'
        text = f"{changed}: read it again, then repeat the change"
        raise RefusedError(grpc.StatusCode.ABORTED, "FLAG_VERSION_CONFLICT", text)

    def GetStatus(self, _: Any, timeout: float) -> Any:  # noqa: N802
        return pb.GetStatusResponse(replicas=REPLICAS, answered_by=REPLICAS[0].replica, complete=True)

    def ListFlagHistory(self, request: Any, timeout: float) -> Any:  # noqa: N802
        return pb.ListFlagHistoryResponse(entries=HISTORY if request.flag_key == "checkout-v2" else ())

    def ListAuditEntries(self, _: Any, timeout: float) -> Any:  # noqa: N802
        return audit.ListAuditEntriesResponse(entries=AUDIT)

    def ListSchedules(self, _: Any, timeout: float) -> Any:  # noqa: N802
        return plans.ListSchedulesResponse(schedules=SCHEDULES)

    def CreateSchedule(self, request: Any, timeout: float) -> Any:  # noqa: N802
        made = schedule("a81mz5t0rc4e", "checkout-v2", in_days(1), plans.SCHEDULE_STATE_PENDING)
        wanted = request.schedule
        made.MergeFrom(plans.Schedule(patch=wanted.patch, update_mask=wanted.update_mask, reason=request.reason))
        made.on_conflict, made.max_lateness.seconds, made.etag = plans.ON_CONFLICT_HOLD, 3_600, '"1"'
        return plans.CreateScheduleResponse(schedule=made)

    def ListSegments(self, _: Any, timeout: float) -> Any:  # noqa: N802
        return segments.ListSegmentsResponse(segments=SEGMENTS)

    def GetSegment(self, _: Any, timeout: float) -> Any:  # noqa: N802
        users = segments.SegmentUsers(flag_keys=["banner-text", "checkout-v2"], flags=2, segment_names=["big-pro"])
        return segments.GetSegmentResponse(segment=SEGMENTS[1], users=users)

    def UpdateSegment(self, request: Any, timeout: float) -> Any:  # noqa: N802
        changed = segments.Segment()
        changed.CopyFrom(SEGMENTS[1])
        changed.rule = request.segment.rule
        flags = [segments.FlagOfSegment(flag_key=key) for key in ("banner-text", "checkout-v2")]
        return segments.UpdateSegmentResponse(segment=changed, flags=flags)

    def ListTokens(self, _: Any, timeout: float) -> Any:  # noqa: N802
        return tokens.ListTokensResponse(tokens=TOKENS)

    def GetRollout(self, _: Any, timeout: float) -> Any:  # noqa: N802
        rollout = types.Rollout(from_variant="off", to_variant="on", bucket_by="targetingKey")
        for hours, share in ((-5, 1), (-1, 10), (23, 100)):
            rollout.points.add(share=share).time.FromDatetime(ago(hours=-hours))
        status = rollouts.RolloutStatus(
            rollout=rollout, state=rollouts.ROLLOUT_STATE_RUNNING, share=10, next_share=100, enabled=True
        )
        status.time.FromDatetime(NOW)
        status.next_time.FromDatetime(ago(hours=-23))
        return rollouts.GetRolloutResponse(status=status, revision=46)

    def ToggleFlag(self, request: Any, timeout: float) -> Any:  # noqa: N802
        spread = pb.WriteSpread(revision=47, reached=pb.WRITE_LEVEL_APPLIED, applied_by=["a", "b", "c"])
        flag = flag_to_message(self._toggled(enabled=request.enabled))
        return pb.ToggleFlagResponse(flag=flag, spread=spread, previous_status=types.FLAG_STATUS_ENABLED)

    def WatchFlags(self, _: Any) -> Iterator[Any]:  # noqa: N802
        return self._watches.pop(0)()

    def _first_watch(self) -> Iterator[Any]:
        yield pb.WatchFlagsResponse(snapshot=pb.FlagSnapshot(flags=map(flag_to_message, FLAGS)), resume_revision=46)
        change = pb.FlagChange(flag_key="checkout-v2", revision=47, flag=flag_to_message(self._toggled(enabled=False)))
        yield pb.WatchFlagsResponse(change=change, resume_revision=47)
        raise LostError

    def _second_watch(self) -> Iterator[Any]:
        yield pb.WatchFlagsResponse(heartbeat=pb.Heartbeat(), resume_revision=47)
        yield pb.WatchFlagsResponse(change=pb.FlagChange(flag_key="old", revision=48), resume_revision=48)
        raise KeyboardInterrupt

    @staticmethod
    def _toggled(*, enabled: bool) -> Flag:
        status = Status.ENABLED if enabled else Status.DISABLED
        return Flag(key="checkout-v2", name="New checkout", status=status, revision=47, updated_at=ago(seconds=20))


class Moving(Server):
    """A server on which a rollout is under way."""

    def ListFlags(self, _: Any, timeout: float) -> Any:  # noqa: N802
        return pb.ListFlagsResponse(flags=map(flag_to_message, (self._moving(), *FLAGS[1:])))

    def GetFlag(self, request: Any, timeout: float) -> Any:  # noqa: N802
        return pb.GetFlagResponse(flag=flag_to_message(FLAGS[0] if request.as_of.revision == 46 else self._moving()))

    def UpdateFlag(self, request: Any, timeout: float) -> Any:  # noqa: N802
        return pb.UpdateFlagResponse(flag=flag_to_message(self._moving()), spread=self._spread())

    def PauseRollout(self, request: Any, timeout: float) -> Any:  # noqa: N802
        status = self.GetRollout(None, timeout).status
        status.state = rollouts.ROLLOUT_STATE_PAUSED
        status.rollout.paused_at.FromDatetime(NOW)
        status.ClearField("next_time")
        return rollouts.PauseRolloutResponse(flag=flag_to_message(self._moving()), spread=self._spread(), status=status)

    def RollbackRollout(self, request: Any, timeout: float) -> Any:  # noqa: N802
        status = self.GetRollout(None, timeout).status
        status.rollout.linear, status.next_share = True, 0
        del status.rollout.points[:]
        for minutes, share in ((0, 10), (request.over.seconds // 60, 0)):
            status.rollout.points.add(share=share).time.FromDatetime(ago(minutes=-minutes))
        status.next_time.CopyFrom(status.rollout.points[1].time)
        flag = flag_to_message(self._moving())
        return rollouts.RollbackRolloutResponse(flag=flag, spread=self._spread(), status=status)

    def RollbackFlag(self, request: Any, timeout: float) -> Any:  # noqa: N802
        restored = flag_to_message(FLAGS[0])
        if not request.validate_only:
            restored.revision, restored.etag = 48, '"48"'
        spread = None if request.validate_only else self._spread()
        return pb.RollbackFlagResponse(flag=restored, spread=spread)

    def RollbackFlagSet(self, request: Any, timeout: float) -> Any:  # noqa: N802
        made = (("checkout-v2", "UPDATED", ("rollout",)), ("file-upload", "CREATED", ()), ("new-in-may", "DELETED", ()))
        flags = [pb.RolledBackFlag(flag_key=key, action=action, fields=fields) for key, action, fields in made]
        return pb.RollbackFlagSetResponse(flags=flags)

    @staticmethod
    def _spread() -> pb.WriteSpread:
        return pb.WriteSpread(revision=48, reached=pb.WRITE_LEVEL_CACHED, applied_by=["a"])

    @staticmethod
    def _moving() -> Flag:
        points = ((-5, 1), (-1, 10), (23, 100))
        rollout: dict[str, Any] = {"from": "off", "to": "on"}
        rollout["points"] = [{"time": f"{ago(hours=-h):%Y-%m-%dT%H:%M:%SZ}", "share": share} for h, share in points]
        return replace(FLAGS[0], rollout=rollout, revision=47)


class Channel:
    """A connection to a server that is in this process."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def unary_unary(self, method: str, *_: Any, **__: Any) -> Any:
        return getattr(self._server, method.rpartition("/")[2], None)

    unary_stream = unary_unary


@contextlib.contextmanager
def answered(kind: type[Server] = Server) -> Iterator[None]:
    """Answer commands without a connection, at one moment."""
    with (
        patch.object(calls, "channel_to", lambda *_: contextlib.nullcontext(Channel(kind()))),
        patch.dict("os.environ", {"FLAGSVC_ADDRESS": "flags.example:8013", "USER": "ann"}),
        patch("time.time", NOW.timestamp),
        patch("time.monotonic", iter(range(1_000_000)).__next__),
        patch("time.sleep", lambda _: None),
    ):
        yield
