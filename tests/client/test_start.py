"""The start of a client: what `wait_ready` says, and evaluations and guards that wait for the first flags."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import pytest
from flagsvc_client import AsyncFlagClient, ErrorCode, EvaluationDetails, FlagClient
from flagsvc_client.guards import FeatureCheckFailed, require_feature
from flagsvc_client.transport.sync import Transport

from tests.client.forms import FORMS, asked
from tests.client.guarded_flags import Flags, flag_server
from tests.replicas import replica
from tests.servers import free_port


@pytest.fixture(scope="module")
async def flags(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Flags]:
    async with flag_server(tmp_path_factory.mktemp("start")) as running:
        yield running


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("local", [False, True], ids=["network", "local"])
async def test_wait_ready_is_true_once_the_server_answers_and_only_then(form: str, local: bool, tmp_path: Path) -> None:
    port = free_port()
    async with asked(form, f"127.0.0.1:{port}", local=local, timeout_s=5.0) as client:
        assert await client.wait_ready(0.2) is False
        waiting = asyncio.create_task(client.wait_ready(30))
        async with replica(store_url=f"sqlite:///{tmp_path}/flags.db", port=port):
            assert await waiting is True


async def test_flags_that_arrive_while_the_start_is_under_way_make_it_ready(
    flags: Flags, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Transport.start

    def started_and_filled(transport: Transport, *loops: Any) -> bool:
        started, follower = start(transport, *loops), loops[0].func.__self__
        while follower.local.events.state != "ready":
            time.sleep(0.01)
        return started

    monkeypatch.setattr(Transport, "start", started_and_filled)
    client = await asyncio.to_thread(FlagClient, flags.target, local=True)
    assert client.state == "ready"
    await asyncio.to_thread(client.close)


@pytest.mark.parametrize("form", FORMS)
async def test_the_first_evaluation_waits_for_the_first_flags(form: str, flags: Flags) -> None:
    async with asked(form, flags.target, local=True, wait_ready_s=10.0) as client:
        assert await client.is_enabled("on") is True
    async with asked(form, flags.target, local=True, wait_ready_s=10.0) as client:
        assert (await client.details("text", default="")).value == "a"
    async with asked(form, flags.target, local=True, wait_ready_s=10.0) as client:
        assert {key: found.value for key, found in (await client.batch(["on", "off"])).items()} == {
            "on": True,
            "off": None,
        }


@pytest.mark.parametrize("form", FORMS)
async def test_it_waits_no_longer_than_that_and_once_after_the_start(form: str) -> None:
    async with asked(form, f"127.0.0.1:{free_port()}", local=True, wait_ready_s=0.3) as client:
        began = time.monotonic()
        found = await client.details("on", default=False)
        assert found.error_code is ErrorCode.PROVIDER_NOT_READY
        assert time.monotonic() - began > 0.25
        began = time.monotonic()
        for _ in range(20):
            await client.details("on", default=False)
        assert time.monotonic() - began < 20 * 0.3, "only the start is waited for"


async def test_a_guard_after_a_start_waits_and_does_not_refuse(flags: Flags) -> None:
    client = AsyncFlagClient(flags.target, local=True, wait_ready_s=10.0)

    @require_feature("on", client=client)
    async def guarded() -> str:
        return "done"

    try:
        assert await guarded() == "done"
    finally:
        await client.close()


async def test_with_waits(flags: Flags) -> None:
    async with AsyncFlagClient(flags.target, local=True, wait_ready_s=10.0) as client:
        assert client.ready


async def test_guards_take_mocks_with_a_spec() -> None:
    on = EvaluationDetails("on", value=True, enabled=True)
    mock = create_autospec(FlagClient, instance=True)
    mock.details.return_value = on
    assert require_feature("on", client=mock)(lambda: "done")() == "done"
    mock.details.return_value = SimpleNamespace(error_code=ErrorCode.GENERAL)
    with pytest.raises(FeatureCheckFailed):
        require_feature("on", client=mock)(lambda: "done")()

    async def guarded() -> str:
        return "done"

    aio_mock = create_autospec(AsyncFlagClient, instance=True)
    aio_mock.details.return_value = on
    assert await require_feature("on", client=aio_mock)(guarded)() == "done"
    with pytest.raises(TypeError, match=r"this guard needs a flagsvc_client\.AsyncFlagClient"):
        await require_feature("on", client=mock)(guarded)()
