"""One asyncio client in several event loops: one after the other, as in tests of a backend, and side by side."""

from __future__ import annotations

import asyncio
import functools
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import fastapi
import pytest
from flagsvc_client import AsyncFlagClient, ErrorCode, FlagServiceError
from flagsvc_client.guards.asgi import FeatureRefused, RequireFeature, feature_refused

from tests.client.guarded_flags import Flags, flag_server

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it would rather have a package that is not here
    from fastapi.testclient import TestClient

local_or_not = pytest.mark.parametrize("local", [False, True], ids=["network", "local"])


@pytest.fixture(scope="module")
async def flags(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Flags]:
    async with flag_server(tmp_path_factory.mktemp("loops")) as running:
        yield running


async def as_in_a_module(target: str, **options: Any) -> AsyncFlagClient:
    """A client that is made where no event loop runs."""
    return await asyncio.to_thread(functools.partial(AsyncFlagClient, target, **options))


async def in_another_loop(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return await asyncio.to_thread(asyncio.run, work())


@local_or_not
async def test_it_is_opened_again_in_the_next_loop(flags: Flags, local: bool) -> None:
    client = await as_in_a_module(flags.target, local=local, timeout_s=5.0)

    async def once() -> tuple[bool, bool]:
        async with client:
            return await client.wait_ready(5), await client.is_enabled("on")

    assert await in_another_loop(once) == (True, True)
    assert client.state == "closed"
    assert await in_another_loop(once) == (True, True)
    assert await once() == (True, True)


@local_or_not
async def test_a_loop_that_ends_without_closing_the_client_leaves_it_usable(flags: Flags, local: bool) -> None:
    client = await as_in_a_module(flags.target, local=local, timeout_s=5.0, wait_ready_s=5.0)

    async def once() -> bool:
        return await client.is_enabled("on")

    assert await in_another_loop(once) is True
    await flags.toggle("on", False)
    try:
        assert await client.wait_ready(5), "what was missed meanwhile is here"
        assert await once() is False
    finally:
        await flags.toggle("on", True)
        await client.close()


async def test_loops_side_by_side_share_a_client(flags: Flags) -> None:
    async with AsyncFlagClient(flags.target, local=True, timeout_s=5.0) as client:
        assert await client.wait_ready(5)

        async def elsewhere() -> tuple[bool, bool, str]:
            flag = await client.flag("on")
            return await client.wait_ready(1), await client.is_enabled("on"), flag.key

        assert await in_another_loop(elsewhere) == (True, True, "on")
        assert await elsewhere() == (True, True, "on")


async def test_a_closed_client_says_so_at_once(flags: Flags) -> None:
    for local in (False, True):
        client = AsyncFlagClient(flags.target, local=local)
        await client.close()
        assert (client.state, client.ready) == ("closed", False)
        async with asyncio.timeout(2):
            assert await client.wait_ready(60) is False
        with pytest.raises(FlagServiceError, match="it is closed"):
            await client.flag("on")
        if not local:
            assert (await client.details("on", default=True)).error_code is ErrorCode.PROVIDER_NOT_READY


async def test_a_backend_with_a_client_for_the_module_is_tested_twice(flags: Flags) -> None:
    client = await as_in_a_module(flags.target, local=True, wait_ready_s=5.0)

    @asynccontextmanager
    async def lifespan(_: fastapi.FastAPI) -> AsyncIterator[None]:
        async with client:
            yield

    app = fastapi.FastAPI(lifespan=lifespan, exception_handlers={FeatureRefused: feature_refused})

    @app.get("/on", dependencies=[fastapi.Depends(RequireFeature(client, "on"))])
    async def on() -> str:
        return "on"

    @app.get("/off", dependencies=[fastapi.Depends(RequireFeature(client, "off"))])
    async def off() -> str:
        return "off"

    def tested() -> list[int]:
        with TestClient(app) as http:
            return [http.get("/on").status_code, http.get("/off").status_code]

    assert await asyncio.to_thread(tested) == [200, 403]
    assert await asyncio.to_thread(tested) == [200, 403]
