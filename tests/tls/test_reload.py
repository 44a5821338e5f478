"""Certificates that change while a server runs: under load no call fails, and a bad one changes nothing."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import grpc
import pytest
from structlog.testing import capture_logs

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc.tls import certificates
from flagsvc.tls.certificates import Certificates
from flagsvc.tls.pair import Files
from tests.certificates import DAY, Authority, Signed, put
from tests.replicas import Process, replica, until
from tests.tls.asking import OFREP, certificates_in_use, create_a, evaluate, exchange, served_certificate

AUTHORITY = Authority()
ENOUGH_CALLS = 20
"""Calls of each kind after which the test ends."""


@pytest.fixture
def files(tmp_path: Path) -> Files:
    certificate, key = AUTHORITY.sign().put(tmp_path)
    return Files(certificate, key, {})


def sampled(found: Certificates) -> dict[str, float]:
    return {sample.name: sample.value for sample in found.samples()}


def test_key_and_certificate_arrive_one_after_the_other(files: Files) -> None:
    found, new = Certificates(files), AUTHORITY.sign(ends=2 * DAY)
    before = found.context("grpc")
    with capture_logs() as logs:
        put(files.certificate, new.pem)
        found.follow()
        assert found.context("grpc") is before
        put(files.key, new.key_pem)
        found.follow()
        found.follow()
    assert found.context("grpc") is not before
    assert [line["event"] for line in logs] == ["tls_certificate_replaced"]
    samples = sampled(found)
    assert (
        samples["flagsvc_tls_certificate_expiry_timestamp_seconds"] == new.certificate.not_valid_after_utc.timestamp()
    )
    assert (samples["flagsvc_tls_reloads_total"], samples["flagsvc_tls_refusals_total"]) == (1, 0)


def test_a_link_that_is_moved_is_followed(tmp_path: Path) -> None:
    """Kubernetes keeps the files in a folder behind a link, and moves that."""
    for name, signed in (("1", AUTHORITY.sign()), ("2", AUTHORITY.sign())):
        (tmp_path / name).mkdir()
        signed.put(tmp_path / name)
    data = tmp_path / "..data"
    data.symlink_to("1")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    found = Certificates(Files(tmp_path / "tls.crt", tmp_path / "tls.key", {}))
    new = tmp_path / "..data_tmp"
    new.symlink_to("2")
    new.replace(data)
    found.follow()
    assert found.reloads == 1


BROKEN: dict[str, bytes | None] = {"of another key": AUTHORITY.sign().pem, "garbage": b"x", "empty": b"", "gone": None}
EXPIRED = AUTHORITY.sign(begins=-2 * DAY, ends=-DAY)


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_pair_keeps_the_old_one_and_is_reported_once(broken: bytes | None, files: Files) -> None:
    found, old = Certificates(files), files.certificate.read_bytes()
    before = found.context("ofrep")
    with capture_logs() as logs:
        if broken is None:
            files.certificate.unlink()
        else:
            put(files.certificate, broken)
        for _ in range(4):
            found.follow()
    assert found.context("ofrep") is before
    assert [(line["event"], line["log_level"]) for line in logs] == [("tls_files_refused", "error")]
    assert str(files.certificate) in logs[0]["problem"]
    assert (sampled(found)["flagsvc_tls_files_refused"], sampled(found)["flagsvc_tls_refusals_total"]) == (1, 1)
    put(files.certificate, old)
    found.follow()
    assert (sampled(found)["flagsvc_tls_files_refused"], sampled(found)["flagsvc_tls_reloads_total"]) == (0, 0)


def test_an_expired_pair_is_served_at_the_start_only(files: Files) -> None:
    found = Certificates(files)
    EXPIRED.put(files.key.parent)
    found.follow()
    assert found.reloads == 0
    with capture_logs() as logs:
        assert sampled(Certificates(files))["flagsvc_tls_certificate_expiry_timestamp_seconds"] > 0
    assert [line["event"] for line in logs] == ["tls_certificate_expired"]


async def test_files_are_looked_at_again_and_again(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "CHECK_EVERY_S", 0.01)
    found = Certificates(files)
    running = asyncio.create_task(found.run())
    for count in (1, 2):
        AUTHORITY.sign().put(files.key.parent)
        await until(lambda count=count: found.reloads == count)  # type: ignore[misc]
    running.cancel()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    """`flagsvc serve` with TLS, on the event loop that it has in use."""
    certificate, key = AUTHORITY.sign().put(tmp_path)
    options = ("--tls-cert", str(certificate), "--tls-key", str(key))
    with Process("--store", f"sqlite:///{tmp_path}/flags.db", *options) as server:
        yield server


def ports(process: Process) -> tuple[int, int, int]:
    return process.port, process.sync_port, process.ofrep_port


async def until_served(process: Process, signed: Signed) -> None:
    """Wait until every port serves a certificate."""
    for port in ports(process):
        deadline = time.monotonic() + 20
        while await served_certificate(port, AUTHORITY) != signed.certificate:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def until_metric(process: Process, line: str) -> None:
    deadline = time.monotonic() + 20
    while line not in await metrics(process):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


async def metrics(process: Process) -> str:
    asked = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    return (await exchange(process.management_port, None, asked)).decode()


async def test_no_call_fails_while_certificates_change(process: Process, tmp_path: Path) -> None:
    """New connections all the time, and two that stay."""
    credentials, context = AUTHORITY.credentials(), AUTHORITY.trusting(alpn=["http/1.1"])
    calls, stopping = Counter[str](), asyncio.Event()

    async def call(name: str, step: Callable[[], Awaitable[bool]]) -> None:
        while not stopping.is_set():
            assert await step(), name
            calls[name] += 1
            await asyncio.sleep(0.02)

    async def ofrep() -> bool:
        return b'"value":true' in await exchange(process.ofrep_port, context, OFREP)

    async def lasting(channel: grpc.aio.Channel) -> bool:
        request = pb.EvaluateFlagRequest(flag_key="a")
        return (await pb_grpc.FlagServiceStub(channel).EvaluateFlag(request, timeout=10)).evaluation.enabled

    async with (
        grpc.aio.secure_channel(process.address, credentials) as front,
        grpc.aio.secure_channel(f"127.0.0.1:{process.sync_port}", credentials) as sync,
    ):
        await create_a(front)
        steps: dict[str, Callable[[], Awaitable[bool]]] = {
            "grpc": lambda: evaluate(process.port, credentials),
            "sync": lambda: evaluate(process.sync_port, credentials),
            "ofrep": ofrep,
            "grpc, lasting": lambda: lasting(front),
            "sync, lasting": lambda: lasting(sync),
        }
        async with asyncio.TaskGroup() as load:
            for name, step in steps.items():
                load.create_task(call(name, step))
            AUTHORITY.sign().put(tmp_path)
            await until_metric(process, "flagsvc_tls_reloads_total 1.0")
            signed = AUTHORITY.sign()
            put(tmp_path / "tls.key", signed.key_pem)
            await asyncio.sleep(0.1)
            put(tmp_path / "tls.crt", signed.pem)
            await until_served(process, signed)
            put(tmp_path / "tls.crt", b"broken")
            await until_metric(process, "flagsvc_tls_files_refused 1.0")
            await until_served(process, signed)
            await until(lambda: all(calls[name] > ENOUGH_CALLS for name in steps))
            stopping.set()
    page = await metrics(process)
    assert "flagsvc_tls_reloads_total 2.0" in page
    assert "flagsvc_tls_failed_handshakes_total" not in page


async def test_a_new_client_ca_is_taken_with_the_rest(tmp_path: Path) -> None:
    old, new = Authority("old clients"), Authority("new clients")
    certificate, key = AUTHORITY.sign().put(tmp_path)
    files = {"tls_cert": str(certificate), "tls_key": str(key), "tls_client_ca": f"sync={old.put(tmp_path)}"}
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db", **files, sync_port=0) as (_, server):
        assert not await evaluate(server.sync_port, AUTHORITY.credentials(old.sign()))
        new.put(tmp_path)
        certificates_in_use(server).follow()
        assert not await evaluate(server.sync_port, AUTHORITY.credentials(new.sign()))
        with pytest.raises(grpc.aio.AioRpcError):
            await evaluate(server.sync_port, AUTHORITY.credentials(old.sign()))
