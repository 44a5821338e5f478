"""The gRPC channel: its target, its options, and which calls are retried."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import grpc

MAX_PORT = 65_535
_RETRIED_METHODS = {
    "FlagService": (
        "EvaluateFlag",
        "BatchEvaluateFlags",
        "GetFlag",
        "ListFlags",
        "ListFlagHistory",
        "ListFlagRevisions",
        "GetStatus",
    ),
    "ScheduleService": ("GetSchedule", "ListSchedules"),
    "RolloutService": ("GetRollout",),
}
"""Calls that may be sent twice: those that only read.

A write is sent once. If its response is lost, the change may have been made. Sent again, a toggle could undo what
somebody else did in between, such as a kill switch, and with an etag it would be refused because of its own change.
"""

SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [
                    {"service": f"flagsvc.v1.{service}", "method": method}
                    for service, methods in _RETRIED_METHODS.items()
                    for method in methods
                ],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "0.25s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    }
)
OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.service_config", SERVICE_CONFIG),
    ("grpc.enable_retries", 1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
)
"""A call to a server that is down fails at once. A server that is back is found within two seconds, and a dead
connection within forty."""
IDLE_TIMEOUT_S = 25.0
"""A stream that is silent for longer is dead: the server sends a heartbeat every ten seconds."""


def channel_options(options: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return a channel's options; the caller's take precedence."""
    return list((dict(OPTIONS) | dict(options)).items())


def checked_target(target: str) -> str:
    """Return the target. Raises ValueError, with what would be valid, if it is not one."""
    expected = "it must be HOST:PORT, such as 127.0.0.1:8013, or a gRPC target, such as dns:///flagsvc:8013"
    if not isinstance(target, str) or not target.strip():
        raise ValueError(f"target is {target!r}; {expected}")
    scheme, colon, _ = target.partition(":")
    if colon and scheme in ("dns", "unix", "unix-abstract", "ipv4", "ipv6", "xds", "passthrough", "vsock"):
        return target
    if "://" in target:
        raise ValueError(f"target is {target!r}, a URL; {expected}")
    host, colon, port = target.rpartition(":")
    if not (colon and host and port.isdigit() and 0 < int(port) <= MAX_PORT):
        raise ValueError(f"target is {target!r}; {expected}")
    return target


def open_channel(
    module: Any, target: str, credentials: grpc.ChannelCredentials | None, options: Sequence[tuple[str, Any]]
) -> Any:
    """Open a channel; `module` is `grpc` or `grpc.aio`."""
    if credentials is None:
        return module.insecure_channel(target, options=options)
    return module.secure_channel(target, credentials, options=options)


class _Forks:
    """Counts the forks that led to this process: a channel does not survive one."""

    count = 0

    @classmethod
    def increment(cls) -> None:
        """Count one more; called in the child."""
        cls.count += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Forks.increment)


def fork_count() -> int:
    """Return how many forks led to this process since this module was imported."""
    return _Forks.count
