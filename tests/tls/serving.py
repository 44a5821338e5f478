"""`flagsvc serve` with TLS, as a process, and a flag that is on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from flagsvc_client import ErrorCode, Flag, FlagClient, Status, Tls

from tests.certificates import Authority
from tests.replicas import Process


class Served(NamedTuple):
    """`tls`: for clients. Its files are in the folder: ca.crt, own.crt and own.key."""

    process: Process
    folder: Path
    tls: Tls


@contextmanager
def serving_mutual(folder: Path) -> Iterator[Served]:
    """Serve gRPC to clients with certificates alone; flag `a` is on."""
    server, clients = Authority(), Authority("clients")
    certificate, key = server.sign().put(folder)
    own, own_key = clients.sign("shop").put(folder, "own")
    options = ("--tls-cert", str(certificate), "--tls-key", str(key))
    options += ("--tls-client-ca", f"grpc={clients.put(folder, 'clients.crt')}")
    tls = Tls(ca=server.put(folder), certificate=own, key=own_key)
    with Process("--store", f"sqlite:///{folder}/encrypted.db", *options) as process:
        with FlagClient(process.address, tls=tls) as client:
            deadline = time.monotonic() + 20
            while client.details("a", default=False).error_code is ErrorCode.PROVIDER_NOT_READY:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            client.create(Flag(key="a", status=Status.ENABLED))
        yield Served(process, folder, tls)
