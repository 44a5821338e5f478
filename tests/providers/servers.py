"""`flagsvc serve` for providers, and a plain client that changes its flags."""

from __future__ import annotations

import fcntl
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import grpc
import httpx
from google.protobuf.field_mask_pb2 import FieldMask

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.replicas import Process

DEFAULT_PORTS = (8013, 8015)
"""Default ports of flagd's providers: RPC and in process."""


class Operator:
    """Changes flags through FlagService, as an operator does; calls block."""

    def __init__(self, address: str) -> None:
        quick = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
        self._channel = grpc.insecure_channel(address, options=[*quick, ("grpc.enable_retries", 0)])
        self._stub = pb_grpc.FlagServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def create(self, *flags: types.Flag) -> None:
        for flag in flags:
            self._stub.CreateFlag(pb.CreateFlagRequest(flag=flag), timeout=15, wait_for_ready=True)

    def toggle(self, key: str, enabled: bool, flag_set: str = "") -> None:
        request = pb.ToggleFlagRequest(flag_key=key, flag_set=flag_set, enabled=enabled)
        self._stub.ToggleFlag(request, timeout=15, wait_for_ready=True)

    def update(self, flag: types.Flag, *fields: str) -> None:
        request = pb.UpdateFlagRequest(flag=flag, update_mask=FieldMask(paths=fields))
        self._stub.UpdateFlag(request, timeout=15, wait_for_ready=True)

    def set_default(self, key: str, variant: str, flag_set: str = "") -> None:
        self.update(types.Flag(key=key, flag_set=flag_set, default_variant=variant), "default_variant")

    def delete(self, key: str) -> None:
        self._stub.DeleteFlag(pb.DeleteFlagRequest(flag_key=key), timeout=15, wait_for_ready=True)


@contextmanager
def serving(store: Path, flags: Iterable[types.Flag] = (), *arguments: str) -> Iterator[tuple[Process, Operator]]:
    """Serve a new SQLite store with these flags on free ports."""
    process = Process("--store", f"sqlite:///{store}", *arguments, FLAGSVC_DRAIN_S="0", FLAGSVC_GRACE_S="2")
    with process, Operator(process.address) as operator:
        operator.create(*flags)
        yield process, operator


@contextmanager
def serving_default_ports(store: Path, flags: Iterable[types.Flag]) -> Iterator[tuple[Process, Operator]]:
    """Serve on the default ports of providers; waits for other runs of these tests on this machine."""
    process = Process("--store", f"sqlite:///{store}", FLAGSVC_DRAIN_S="0", FLAGSVC_GRACE_S="2")
    process.port, process.sync_port = DEFAULT_PORTS
    with Path(tempfile.gettempdir(), "flagsvc-default-ports.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for port in DEFAULT_PORTS:
            _assert_free(port)
        with process, Operator(process.address) as operator:
            operator.create(*flags)
            yield process, operator


def calls_of(process: Process, method: str) -> int:
    """Read from the server's metrics how many calls of a method there were, whatever their outcome."""
    page = httpx.get(f"http://127.0.0.1:{process.management_port}/metrics", timeout=5).text
    lines = [line for line in page.splitlines() if line.startswith("flagsvc_call_seconds_count{")]
    return sum(int(float(line.split()[-1])) for line in lines if f'/{method}"' in line)


def _assert_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            message = f"port {port} is taken: end what listens there, this test needs the providers' default ports"
            raise AssertionError(message) from None
