"""FlagService in memory: definitions, writes, history and watches, with the server's own rules for writes."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import grpc

from flagsvc_client._engine import changes, errors, rollouts
from flagsvc_client._engine.changes import Author, Decide
from flagsvc_client._engine.documents import json_safe
from flagsvc_client._engine.flag_rollouts import existing_rollout
from flagsvc_client._engine.model import WRITABLE, Flag, Status, list_order
from flagsvc_client._engine.model import Change as StoredChange
from flagsvc_client.errors import FlagServiceError, Violation, failure
from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc_client.stubs.flagsvc.v1 import rollout_service_pb2 as pb_rollouts
from flagsvc_client.stubs.flagsvc.v1 import types_pb2 as types
from flagsvc_client.testing.flags import InMemoryFlags
from flagsvc_client.watch_events import Change
from flagsvc_client.wire_flags import flag_message, flag_of
from flagsvc_client.wire_rollouts import rollout_message
from flagsvc_client.wire_values import to_value

_TIMES = ("created_at", "updated_at", "enabled_at", "disabled_at", "expires_at")
_CODES = {
    errors.FlagNotFound: (grpc.StatusCode.NOT_FOUND, "FLAG_NOT_FOUND"),
    errors.FlagExists: (grpc.StatusCode.ALREADY_EXISTS, "FLAG_ALREADY_EXISTS"),
    errors.RevisionConflict: (grpc.StatusCode.ABORTED, "FLAG_VERSION_CONFLICT"),
    errors.RolloutMissing: (grpc.StatusCode.FAILED_PRECONDITION, "ROLLOUT_MISSING"),
    errors.InvalidRequest: (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FLAG"),
}


class InMemoryService:
    """Answers a client's calls. Raises FlagServiceError as the server would."""

    def __init__(self, flags: InMemoryFlags) -> None:
        self.flags = flags
        self._history: list[pb.HistoryEntry] = []
        self._answers: dict[str, tuple[Any, Any]] = {}
        """By request id what was asked, and the answer."""

    def call(self, method: str, request: Any) -> Any:
        """Answer one call."""
        handlers: dict[str, Callable[[Any], Any]] = {
            "GetFlag": self._get,
            "ListFlags": self._list,
            "ListFlagHistory": self._list_history,
            "CreateFlag": self._create,
            "UpdateFlag": self._update,
            "ToggleFlag": self._toggle,
            "DeleteFlag": self._delete,
            "GetRollout": self._get_rollout,
            "PauseRollout": partial(self._change_rollout, pb_rollouts.PauseRolloutResponse, rollouts.paused),
            "ResumeRollout": partial(self._change_rollout, pb_rollouts.ResumeRolloutResponse, rollouts.resumed),
            "RollbackRollout": self._roll_back_rollout,
        }
        if method not in handlers:
            text = f"flags in memory have no {method}: they keep no revisions and no schedules"
            raise failure(grpc.StatusCode.UNIMPLEMENTED, text, "NOT_IN_MEMORY")
        request_id = getattr(request, "request_id", "")
        if request_id in self._answers:
            asked, answer = self._answers[request_id]
            if asked != request:
                text = f"request_id is {request_id!r}; it was used for another request"
                raise failure(grpc.StatusCode.INVALID_ARGUMENT, text, "REQUEST_ID_REUSED")
            return answer
        try:
            answer = handlers[method](request)
        except errors.FlagsvcError as error:
            raise _failure(error) from None
        if request_id:
            self._answers[request_id] = request, answer
        return answer

    def first_message(self) -> pb.WatchFlagsResponse:
        """Return the snapshot that a watch begins with."""
        snapshot = pb.FlagSnapshot(flags=[_message(flag) for flag in sorted(self.flags.flags(), key=list_order)])
        return pb.WatchFlagsResponse(snapshot=snapshot, resume_revision=self.flags.evaluated.watermark)

    def _get(self, request: pb.GetFlagRequest) -> pb.GetFlagResponse:
        flag = self.flags.flag(request.flag_key)
        if flag is None:
            raise errors.FlagNotFound(request.flag_key)
        return pb.GetFlagResponse(flag=_message(flag))

    def _list(self, _: pb.ListFlagsRequest) -> pb.ListFlagsResponse:
        return pb.ListFlagsResponse(flags=[_message(flag) for flag in sorted(self.flags.flags(), key=list_order)])

    def _list_history(self, request: pb.ListFlagHistoryRequest) -> pb.ListFlagHistoryResponse:
        entries = [entry for entry in reversed(self._history) if entry.flag_key == request.flag_key]
        return pb.ListFlagHistoryResponse(entries=entries[: request.page_size])

    def _create(self, request: pb.CreateFlagRequest) -> pb.CreateFlagResponse:
        change = self._stored(request, request.flag.key, changes.create(flag_of(request.flag), _author(request)))
        return pb.CreateFlagResponse(flag=_message_of(change), spread=_spread(request, change))

    def _update(self, request: pb.UpdateFlagRequest) -> pb.UpdateFlagResponse:
        fields = [*WRITABLE] if "*" in request.update_mask.paths else [*request.update_mask.paths]
        decide = changes.update(flag_of(request.flag), fields, _expected(request.flag.etag), _author(request))
        change = self._stored(request, request.flag.key, decide)
        return pb.UpdateFlagResponse(flag=_message_of(change), spread=_spread(request, change))

    def _toggle(self, request: pb.ToggleFlagRequest) -> pb.ToggleFlagResponse:
        decide = changes.toggle(request.flag_key, request.enabled, _expected(request.etag), _author(request))
        change = self._stored(request, request.flag_key, decide)
        return pb.ToggleFlagResponse(flag=_message_of(change), spread=_spread(request, change))

    def _delete(self, request: pb.DeleteFlagRequest) -> pb.DeleteFlagResponse:
        decide = changes.delete(request.flag_key, _expected(request.etag), _author(request))
        change = self._stored(request, request.flag_key, decide)
        return pb.DeleteFlagResponse(revision=change.revision, spread=_spread(request, change))

    def _get_rollout(self, request: pb_rollouts.GetRolloutRequest) -> pb_rollouts.GetRolloutResponse:
        flag = self.flags.flag(request.flag_key)
        if flag is None:
            raise errors.FlagNotFound(request.flag_key)
        return pb_rollouts.GetRolloutResponse(status=_status(flag), revision=flag.revision)

    def _change_rollout(self, response: Any, how: Callable[[Any, float], Any], request: Any) -> Any:
        decide = changes.change_rollout(request.flag_key, how, _expected(request.etag), _author(request))
        change = self._stored(request, request.flag_key, decide)
        assert change.flag is not None  # noqa: S101  only a deletion has no flag
        return response(flag=_message(change.flag), spread=_spread(request, change), status=_status(change.flag))

    def _roll_back_rollout(self, request: pb_rollouts.RollbackRolloutRequest) -> Any:
        seconds = request.over.seconds if request.HasField("over") else None
        how = partial(rollouts.rolled_back, seconds=seconds)
        return self._change_rollout(pb_rollouts.RollbackRolloutResponse, how, request)

    def _stored(self, request: Any, key: str, decide: Decide) -> Change:
        """Store what is decided; with `validate_only` only return it, with the revision of now."""
        if request.validate_only:
            current = self.flags.flag(key)
            change = decide(current)
            return Change(key, change.after if change is not None else current, current.revision if current else 0)
        made: list[StoredChange] = []

        def decided(current: Flag | None) -> Flag | None:
            change = decide(current)
            if change is None:
                return current
            made.append(change)
            return change.after

        stored = self.flags.change(key, decided)
        self._history += [_entry(key, change, stored.revision) for change in made]
        return stored


def change_message(change: Change) -> pb.WatchFlagsResponse:
    """Return the message of a watch for one change."""
    message = pb.FlagChange(flag_key=change.key, revision=change.revision)
    if change.flag is not None:
        message.flag.CopyFrom(_message(change.flag))
    return pb.WatchFlagsResponse(change=message, resume_revision=change.revision)


def _author(request: Any) -> Author:
    return Author(at=datetime.now(UTC), actor=request.actor, reason=request.reason)


def _status(flag: Flag) -> pb_rollouts.RolloutStatus:
    """Return how far a flag's rollout is now. Raises RolloutMissing."""
    rollout, now = existing_rollout(flag), time.time()
    standing = rollouts.standing_at(rollout, now)
    status = pb_rollouts.RolloutStatus(
        rollout=rollout_message(flag.rollout),
        state=pb_rollouts.RolloutState.Value(f"ROLLOUT_STATE_{standing.state}"),
        share=standing.share,
        enabled=flag.status in (Status.ENABLED, Status.BETA),
    )
    status.time.seconds = int(now)
    if standing.next_time is not None and standing.next_share is not None:
        status.next_time.seconds, status.next_share = standing.next_time, standing.next_share
    return status


def _expected(etag: str) -> int | None:
    try:
        return int(etag.strip('"')) if etag else None
    except ValueError:
        return 0


def _message(flag: Flag) -> types.Flag:
    message = flag_message(flag, flag.etag)
    message.revision, message.bucketing = flag.revision, flag.bucketing
    for name in _TIMES:
        if (moment := getattr(flag, name)) is not None:
            getattr(message, name).FromDatetime(moment)
    return message


def _message_of(change: Change) -> types.Flag | None:
    return _message(change.flag) if change.flag is not None else None


def _spread(request: Any, change: Change) -> pb.WriteSpread | None:
    if request.validate_only:
        return None
    return pb.WriteSpread(revision=change.revision, reached=pb.WRITE_LEVEL_APPLIED, applied_by=["in-memory"])


def _entry(key: str, change: StoredChange, revision: int) -> pb.HistoryEntry:
    entry = pb.HistoryEntry(
        flag_key=key, action=change.action, actor=change.actor, reason=change.reason, revision=revision
    )
    entry.created_at.FromDatetime(change.at)
    for side, values in ((entry.previous_value, change.previous), (entry.new_value, change.new)):
        if values is not None:
            side.CopyFrom(to_value(json_safe(dict(values)), key))
    return entry


def _failure(error: errors.FlagsvcError) -> FlagServiceError:
    code, reason = _CODES.get(type(error), (grpc.StatusCode.INTERNAL, ""))
    key = getattr(error, "key", None)
    found = [Violation(each.field, str(each)) for each in getattr(error, "violations", ())]
    metadata = {"flagKey": key} if key else {}
    return failure(code, str(error), reason, metadata=metadata, violations=tuple(found))
