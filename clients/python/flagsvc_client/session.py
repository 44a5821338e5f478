"""What both forms of the client share: the requests, and what the caller gets when a call or an evaluation fails."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import grpc

from flagsvc_client._engine.model import Flag
from flagsvc_client.details import Context, ErrorCode, EvaluationDetails, JsonValue, Reason
from flagsvc_client.errors import FlagServiceError, failure
from flagsvc_client.failure_log import FailureLog
from flagsvc_client.hooks import Evaluated, Hook, run_hooks
from flagsvc_client.results import WRITE_LEVEL_NUMBERS, WriteLevel, WriteResult, details_of, write_result_of
from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc_client.stubs.flagsvc.v1 import types_pb2 as types
from flagsvc_client.wire_contexts import put_context
from flagsvc_client.wire_flags import flag_message

T = TypeVar("T")
CALL_TIMEOUT_S = 0.5
WRITE_TIMEOUT_S = 5.0
"""How long a write itself may take: it is a transaction."""
WAIT_TIMEOUT_S = 5.0
"""How long the server waits for a change to spread, unless the request says otherwise."""
PAGE_SIZE = 500
NOT_READY = types.ERROR_CODE_PROVIDER_NOT_READY


class Session:
    """A client's settings and its consistency token: the revision of its newest write, sent with every read."""

    def __init__(
        self, flag_set: str, timeout_s: float, on_behalf_of: str, *, raise_errors: bool, hooks: Sequence[Hook] = ()
    ) -> None:
        if not timeout_s > 0:
            raise ValueError(f"timeout_s is {timeout_s!r}; it must be a number of seconds above 0")
        self.flag_set, self.timeout_s, self._on_behalf_of = flag_set, timeout_s, on_behalf_of
        self._raise_errors, self._hooks = raise_errors, tuple(hooks)
        self._written_revision = 0
        self._failure_log = FailureLog()

    def evaluate_request(
        self, key: str, context: Context, value_type: types.ValueType.ValueType, min_revision: int
    ) -> pb.EvaluateFlagRequest:
        """Build the request for one evaluation. Raises FlagServiceError if an argument is invalid."""
        min_revision = max(min_revision, self._written_revision)
        try:
            request = pb.EvaluateFlagRequest(
                flag_key=key, flag_set=self.flag_set, expected_type=value_type, min_revision=min_revision
            )
        except ValueError as error:
            raise _invalid_request(error) from None
        put_context(request, context)
        return request

    def batch_request(self, keys: Iterable[str], context: Context, min_revision: int) -> pb.BatchEvaluateFlagsRequest:
        """Build the request for several evaluations. Raises FlagServiceError if an argument is invalid."""
        min_revision = max(min_revision, self._written_revision)
        try:
            request = pb.BatchEvaluateFlagsRequest(flag_keys=keys, flag_set=self.flag_set, min_revision=min_revision)
        except ValueError as error:
            raise _invalid_request(error) from None
        put_context(request, context)
        return request

    def get_request(self, key: str) -> pb.GetFlagRequest:
        """Build the request for one definition."""
        return pb.GetFlagRequest(flag_key=key, flag_set=self.flag_set, min_revision=self._written_revision)

    def watch_request(self, resume_revision: int) -> pb.WatchFlagsRequest:
        """Build the request for a watch that resumes after a revision; 0 starts with a snapshot."""
        return pb.WatchFlagsRequest(flag_set=self.flag_set, resume_revision=resume_revision, paged_snapshots=True)

    def create_request(self, flag: Flag) -> pb.CreateFlagRequest:
        """Build the request. Raises FlagServiceError if a field is not JSON."""
        return pb.CreateFlagRequest(flag=self._flag_message(flag, ""))

    def update_request(self, flag: Flag, fields: Iterable[str], etag: str) -> pb.UpdateFlagRequest:
        """Build the request. Raises FlagServiceError if a field is not JSON."""
        request = pb.UpdateFlagRequest(flag=self._flag_message(flag, etag))
        request.update_mask.paths.extend(fields)
        return request

    def complete_write_request(
        self,
        request: Any,
        *,
        reason: str = "",
        on_behalf_of: str = "",
        wait_for: WriteLevel | None = None,
        wait_timeout_s: float | None = None,
        request_id: str = "",
        validate_only: bool = False,
    ) -> float:
        """Fill in what all writes have; see WriteOptions. Returns the deadline: the time for the write and the wait."""
        self.put_author(request, reason, on_behalf_of)
        if request_id:
            request.request_id = request_id
        if validate_only:
            request.validate_only = True
        if wait_for is not None:
            request.wait_for = WRITE_LEVEL_NUMBERS[WriteLevel(wait_for)]
        if wait_timeout_s is not None:
            request.wait_timeout.seconds = int(wait_timeout_s)
            request.wait_timeout.nanos = int(wait_timeout_s % 1 * 1e9)
        return self.write_timeout_s + (WAIT_TIMEOUT_S if wait_timeout_s is None else wait_timeout_s)

    def put_author(self, request: Any, reason: str, on_behalf_of: str) -> None:
        """Say why a request is made, and for whom."""
        request.actor, request.reason = on_behalf_of or self._on_behalf_of, reason

    @property
    def write_timeout_s(self) -> float:
        """The deadline of a write that waits for no level."""
        return max(self.timeout_s, WRITE_TIMEOUT_S)

    def note_written(self, revision: int) -> None:
        """Let later reads ask for this revision or a newer one."""
        self._written_revision = max(self._written_revision, revision)

    def write_result(self, response: Any) -> WriteResult:
        """Unpack the response to a write. If it was made, later reads ask for its revision or a newer one."""
        result = write_result_of(response)
        if result.reached is not None:
            self.note_written(result.revision)
        return result

    def details_of(self, found: pb.FlagEvaluation, default: T, context: Context) -> EvaluationDetails[T]:
        """Unpack what the server evaluated; see `checked`."""
        return self.checked(details_of(found, default), context)

    def checked(self, details: EvaluationDetails[T], context: Context) -> EvaluationDetails[T]:
        """Return an evaluation after the hooks, and log its error; with `raise_errors` raise it."""
        if self._hooks:
            run_hooks(self._hooks, Evaluated(details, context, self.flag_set), self._failure_log)
        if details.error_code is not None:
            if self._raise_errors:
                raise failure(grpc.StatusCode.OK, details.error_message, details.error_code)
            self._log_failure(f"{details.error_code} {details.flag_key}", details.flag_key, details.error_message)
        return details

    def is_enabled(self, details: EvaluationDetails[Any], default: bool) -> bool:
        """Whether the flag is on; an unknown flag is not, and after any other error the default counts."""
        if details.error_code is None or details.error_code is ErrorCode.FLAG_NOT_FOUND:
            return details.enabled
        return default

    def failed(self, key: str, default: T, error: FlagServiceError, context: Context) -> EvaluationDetails[T]:
        """Return the default after a failed call and the hooks, and log the failure; with `raise_errors` raise it."""
        details = EvaluationDetails(
            key, default, reason=Reason.ERROR, error_code=_error_code_of(error), error_message=error.message
        )
        if self._hooks:
            run_hooks(self._hooks, Evaluated(details, context, self.flag_set), self._failure_log)
        self._report(key, error)
        return details

    def failed_batch(
        self, keys: Iterable[str], error: FlagServiceError, context: Context
    ) -> dict[str, EvaluationDetails[JsonValue]]:
        """Return an error for each key after a failed call; nothing if all flags of the set were asked for."""
        found = {key: self.failed(key, None, error, context) for key in keys}
        if not found:
            self._report("*", error)
        return found

    def _report(self, key: str, error: FlagServiceError) -> None:
        if self._raise_errors:
            raise error
        self._log_failure(f"{error.code.name} {error.reason}".strip(), key, error.message)

    def watch_interrupted(self, error: FlagServiceError) -> None:
        """Log that a watch broke off."""
        self._failure_log.warn(
            "watch_interrupted", f"watch {error.code.name}", "watch interrupted, reconnecting", error.message
        )

    def _log_failure(self, kind: str, key: str, message: str) -> None:
        self._failure_log.warn("evaluation_failed", kind, f"flag {key!r}: returning the default", message)

    def _flag_message(self, flag: Flag, etag: str) -> types.Flag:
        try:
            return flag_message(replace(flag, flag_set=self.flag_set), etag)
        except (TypeError, ValueError) as error:
            raise failure(grpc.StatusCode.INVALID_ARGUMENT, str(error), "INVALID_FLAG") from None


def _error_code_of(error: FlagServiceError) -> ErrorCode:
    """Return OpenFeature's error code for a failed call."""
    if error.reason == ErrorCode.INVALID_CONTEXT:
        return ErrorCode.INVALID_CONTEXT
    if error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return ErrorCode.PROVIDER_NOT_READY
    return ErrorCode.GENERAL


def _invalid_request(error: ValueError) -> FlagServiceError:
    """Return the failure for a key that is not valid text, or a revision out of range."""
    return failure(grpc.StatusCode.INVALID_ARGUMENT, str(error), "INVALID_REQUEST")
