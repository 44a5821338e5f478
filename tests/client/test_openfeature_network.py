"""FlagsvcProvider over the network: its events report whether evaluations succeed; each event loop has a client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from flagsvc_client.openfeature import FlagsvcProvider
from openfeature import api
from openfeature.event import ProviderEvent
from openfeature.exception import ErrorCode
from openfeature.provider import ProviderStatus

from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.replicas import Process, replica


@pytest.fixture
async def process(tmp_path: Path) -> Process:
    """A server that is not started yet, whose flag `a` is on."""
    store = f"sqlite:///{tmp_path}/flags.db"
    async with replica(store_url=store) as (direct, _):
        await direct.create("a", status=types.FLAG_STATUS_ENABLED)
    return Process("--store", store, FLAGSVC_DRAIN_S="0")


@pytest.fixture(autouse=True)
def _sdk_as_new() -> Iterator[None]:
    yield
    api.shutdown()


def answered(value: bool) -> None:
    """Evaluate until the flag has this value."""
    deadline = time.monotonic() + 20
    while api.get_client().get_boolean_value("a", False) is not value:
        assert time.monotonic() < deadline, "not so after 20 s"
        time.sleep(0.05)


def test_its_status_is_whether_the_last_evaluation_succeeded(process: Process) -> None:
    client, heard = api.get_client(), []
    client.add_handler(ProviderEvent.PROVIDER_ERROR, lambda _: heard.append("error"))
    api.set_provider(FlagsvcProvider(process.address))
    deadline = time.monotonic() + 10
    while client.get_provider_status() is not ProviderStatus.ERROR:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    client.add_handler(ProviderEvent.PROVIDER_READY, lambda _: heard.append("ready"))
    assert client.get_boolean_details("a", False).error_code is ErrorCode.PROVIDER_NOT_READY
    with process:
        answered(True)
        assert client.get_provider_status() is ProviderStatus.READY
    answered(False)
    assert client.get_provider_status() is ProviderStatus.ERROR
    deadline = time.monotonic() + 5
    while len(heard) < 4:
        assert time.monotonic() < deadline, heard
        time.sleep(0.01)
    assert sorted(heard) == ["error", "error", "error", "ready"], "the first by the provider, and by this SDK once more"


async def test_each_event_loop_has_a_client_of_its_own(process: Process) -> None:
    with process:
        api.set_provider(FlagsvcProvider(process.address, timeout_s=5))
        await asyncio.to_thread(answered, True)

        async def ask() -> bool:
            client = api.get_client()
            return all(await asyncio.gather(*(client.get_boolean_value_async("a", False) for _ in range(20))))

        assert await ask()
        for _ in range(3):
            assert await asyncio.to_thread(asyncio.run, ask())
        assert await ask()
