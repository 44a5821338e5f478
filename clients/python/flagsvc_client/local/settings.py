"""What decides evaluations on the server besides the flags. It travels in the watch stream and in snapshot files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import grpc

from flagsvc_client._engine import needs
from flagsvc_client._engine.evaluation import RULES
from flagsvc_client.details import NOTHING
from flagsvc_client.errors import FlagServiceError
from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc_client.wire_contexts import LIMITS, Limits
from flagsvc_client.wire_values import from_value

STREAM_REFUSED = "STREAM_REFUSED"
PROVEN_CONTEXT = "proven-context"
"""The server sends context fields that the caller's credential proves."""
KNOWN = frozenset({RULES, PROVEN_CONTEXT, *needs.KNOWN})
"""What a server may require of those who evaluate its flags."""


class EvaluationSettings(NamedTuple):
    """`context_values`: fields that override the callers'. `limits`: of the callers' contexts."""

    context_values: Mapping[str, Any] = NOTHING
    limits: Limits = LIMITS


def settings_of(message: pb.WatchFlagsResponse) -> EvaluationSettings:
    """Unpack the settings. Raises FlagServiceError if this release cannot evaluate as the server does."""
    if not message.HasField("evaluation"):
        raise _refused("the server is of an older release, and does not say how it evaluates flags: upgrade it")
    sent = message.evaluation
    # What single flags need, they answer for themselves.
    if unknown := [name for name in sent.requires if name not in KNOWN and name not in sent.flag_needs]:
        needed = ", ".join(map(repr, unknown))
        raise _refused(f"to evaluate the flags as the server does, this client would have to know {needed}: upgrade it")
    limits = Limits(
        sent.max_context_bytes or LIMITS.size,
        sent.max_context_values or LIMITS.values,
        sent.max_context_depth or LIMITS.depth,
    )
    proven = {name: from_value(value) for name, value in sent.proven_context.items()}
    return EvaluationSettings({**sent.context_values, **proven}, limits)


def _refused(why: str) -> FlagServiceError:
    return FlagServiceError(grpc.StatusCode.FAILED_PRECONDITION, why, STREAM_REFUSED)
