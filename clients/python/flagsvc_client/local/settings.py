"""What decides evaluations on the server besides the flags. It travels in the watch stream and in snapshot files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import grpc

from flagsvc_client._engine.evaluation import RULES
from flagsvc_client.details import NOTHING
from flagsvc_client.errors import FlagServiceError
from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc_client.wire_contexts import LIMITS, Limits

STREAM_REFUSED = "STREAM_REFUSED"
KNOWN = frozenset({RULES})
"""What a server may require of those who evaluate its flags."""


class EvaluationSettings(NamedTuple):
    """`context_values`: fields that every evaluation gets. `limits`: of the callers' contexts."""

    context_values: Mapping[str, str] = NOTHING
    limits: Limits = LIMITS


def settings_of(message: pb.WatchFlagsResponse) -> EvaluationSettings:
    """Unpack the settings. Raises FlagServiceError if this release cannot evaluate as the server does."""
    if not message.HasField("evaluation"):
        raise _refused("the server is of an older release, and does not say how it evaluates flags: upgrade it")
    sent = message.evaluation
    if unknown := [name for name in sent.requires if name not in KNOWN]:
        needed = ", ".join(map(repr, unknown))
        raise _refused(f"to evaluate the flags as the server does, this client would have to know {needed}: upgrade it")
    limits = Limits(
        sent.max_context_bytes or LIMITS.size,
        sent.max_context_values or LIMITS.values,
        sent.max_context_depth or LIMITS.depth,
    )
    return EvaluationSettings(dict(sent.context_values), limits)


def _refused(why: str) -> FlagServiceError:
    return FlagServiceError(grpc.StatusCode.FAILED_PRECONDITION, why, STREAM_REFUSED)
