"""File descriptors: the limit is raised at the start, and shared out so that stores and probes always get theirs."""

from __future__ import annotations

import contextlib
import resource

RESERVED = 128
"""Descriptors kept for files, logs, the shared cache, the management port and its probes."""
MIN_PER_PORT = 16
PASSED_ON = 3
"""Descriptors of a connection that is passed on to gRPC within the process: the caller's and both ends of the inner."""

TWICE = 5
"""Descriptors of a connection that the native front passes on in this way: the caller's, its own, and PASSED_ON."""


def limit() -> int:
    """Return how many files this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_limit() -> None:
    """Raise the limit of open files to the highest that the system allows this process."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # some systems report a limit that they do not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def connections_per_port(wanted: int, files: int, store_connections: int, ports: int) -> int:
    """Return how many connections each of the ports for callers may have: `wanted`, or its part of what is left.

    A port whose connections are passed on counts as PASSED_ON ports.
    """
    return max(MIN_PER_PORT, min(wanted, (files - RESERVED - store_connections) // ports))
