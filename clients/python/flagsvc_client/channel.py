"""How a channel to flagsvc is made: target, options, retries."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import grpc

MAX_PORT = 65_535
_SERVICE = "flagsvc.v1.FlagService"
_RETRIED = (
    "EvaluateFlag",
    "BatchEvaluateFlags",
    "GetFlag",
    "ListFlags",
    "ListFlagHistory",
    "GetStatus",
)
"""Calls that may be sent twice: what only reads.

A toggle carries the wanted state, but a lost answer may have been a change: sent again, it would undo what another did
meanwhile (a kill switch), and with an etag it would be refused for its own change.
"""

SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{"service": _SERVICE, "method": method} for method in _RETRIED],
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
"""A server that is down is told at once, one that came back is found within two seconds, a dead connection in forty."""


def channel_options(options: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Give a channel's options; the caller's count more."""
    return list((dict(OPTIONS) | dict(options)).items())


def checked_target(target: str) -> str:
    """Give the target if it can be one. Raises ValueError that says what is right."""
    wanted = "it must be HOST:PORT, such as 127.0.0.1:8013, or a gRPC target, such as dns:///flagsvc:8013"
    if not isinstance(target, str) or not target.strip():
        raise ValueError(f"target is {target!r}; {wanted}")
    scheme, colon, _ = target.partition(":")
    if colon and scheme in ("dns", "unix", "unix-abstract", "ipv4", "ipv6", "xds", "passthrough", "vsock"):
        return target
    if "://" in target:
        raise ValueError(f"target is {target!r}, a URL; {wanted}")
    host, colon, port = target.rpartition(":")
    if not (colon and host and port.isdigit() and 0 < int(port) <= MAX_PORT):
        raise ValueError(f"target is {target!r}; {wanted}")
    return target


def open_channel(
    form: Any, target: str, credentials: grpc.ChannelCredentials | None, options: Sequence[tuple[str, Any]]
) -> Any:
    """Open a channel; `form` is `grpc` or `grpc.aio`."""
    if credentials is None:
        return form.insecure_channel(target, options=options)
    return form.secure_channel(target, credentials, options=options)


class _Forks:
    """Counts this process's forks: a channel does not survive one."""

    count = 0

    @classmethod
    def forked(cls) -> None:
        """Note that this is a child."""
        cls.count += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Forks.forked)


def forks() -> int:
    """Give how often this process was forked since this module was imported."""
    return _Forks.count
