"""FlagsvcProvider under the unmodified OpenFeature SDK, against a real server: over the network and local."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flagsvc_client.openfeature import FlagsvcProvider
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import EventDetails, ProviderEvent
from openfeature.exception import ErrorCode, ProviderNotReadyError
from openfeature.flag_evaluation import FlagEvaluationDetails, FlagEvaluationOptions, Reason
from openfeature.hook import Hook

from flagsvc.api.flag_service import watch
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.faults.proxy import Proxy
from tests.replicas import Client, Process, replica, until
from tests.servers import free_port

ON = types.FLAG_STATUS_ENABLED
PRO = '{"if": [{"==": [{"var": "plan"}, "pro"]}, "on", "off"]}'
VALUES: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "boolean": (True, {"boolean_value": True}, False),
    "string": ("blue", {"string_value": "blue"}, "red"),
    "integer": (52_428_800, {"integer_value": 52_428_800}, 7),
    "float": (0.25, {"float_value": 0.25}, 1.5),
    "object": ({"limit": 3}, {"object_value": {"fields": {"limit": {"integer_value": 3}}}}, {"limit": 1}),
}
"""By type: the flag's value, the same as sent over the network, and a caller's default."""
Provided = Callable[..., OpenFeatureClient]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Client]:
    """A flag of each type, one by targeting, one that is off, one with metadata."""
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db") as (client, running):
        client.target = f"127.0.0.1:{running.port}"
        for kind, (_, wire, _) in VALUES.items():
            await client.create(kind, status=ON, variants={"a": types.Value(**wire)}, default_variant="a")
        await client.create("pro", status=ON, targeting=PRO, metadata={"team": types.Value(string_value="search")})
        await client.create("off")
        yield client


@pytest.fixture
def provided() -> Iterator[Provided]:
    """Set providers, each in a domain of its own."""

    def provide(*args: Any, **options: Any) -> OpenFeatureClient:
        domain = uuid.uuid4().hex
        api.set_provider_and_wait(FlagsvcProvider(*args, **options), domain)
        return api.get_client(domain)

    yield provide
    api.clear_providers()


async def evaluated(client: OpenFeatureClient, kind: str, key: str, default: Any, *args: Any, form: str) -> Any:
    """Evaluate with details, synchronously or not."""
    if form == "asyncio":
        return await getattr(client, f"get_{kind}_details_async")(key, default, *args)
    return await asyncio.to_thread(getattr(client, f"get_{kind}_details"), key, default, *args)


both = pytest.mark.parametrize("local", [False, True], ids=["network", "local"])
forms = pytest.mark.parametrize("form", ["sync", "asyncio"])


@both
@forms
async def test_values_of_all_types(server: Client, provided: Provided, local: bool, form: str) -> None:
    client = await asyncio.to_thread(provided, server.target, local=local, timeout_s=5.0)
    for kind, (value, _, default) in VALUES.items():
        found = await evaluated(client, kind, kind, default, form=form)
        assert (found.value, found.variant, found.reason, found.error_code) == (value, "a", Reason.STATIC, None)
        assert type(found.value) is type(value)
        off = await evaluated(client, kind, "off", default, form=form)
        assert (off.value, off.variant, off.reason, off.error_code) == (default, None, Reason.DISABLED, None)
    whole = await evaluated(client, "float", "integer", 1.5, form=form)
    assert (whole.value, type(whole.value)) == (52_428_800.0, float)


@both
@forms
async def test_targeting_metadata_and_error_codes_of_evaluations(
    server: Client, provided: Provided, local: bool, form: str
) -> None:
    client = await asyncio.to_thread(provided, server.target, local=local, timeout_s=5.0)
    context = EvaluationContext("anna", {"plan": "pro", "since": datetime(2026, 1, 2, tzinfo=UTC), "tags": ["a", {}]})
    found = await evaluated(client, "boolean", "pro", False, context, form=form)
    assert (found.value, found.reason) == (True, Reason.TARGETING_MATCH)
    assert found.flag_metadata.items() >= {"team": "search", "flagSetId": "default", "version": "6"}.items()
    unknown = await evaluated(client, "string", "nope", "x", form=form)
    assert (unknown.value, unknown.reason, unknown.error_code) == ("x", Reason.ERROR, ErrorCode.FLAG_NOT_FOUND)
    other = await evaluated(client, "integer", "string", 7, form=form)
    assert (other.value, other.error_code) == (7, ErrorCode.TYPE_MISMATCH)
    bad = await evaluated(client, "boolean", "pro", False, EvaluationContext("x", {"a": object()}), form=form)
    assert (bad.value, bad.error_code) == (False, ErrorCode.INVALID_CONTEXT)


async def test_two_providers_of_two_sets(server: Client, provided: Provided) -> None:
    await server.create("boolean", flag_set="other", status=types.FLAG_STATUS_DISABLED)
    one = await asyncio.to_thread(provided, server.target, local=True)
    two = await asyncio.to_thread(provided, server.target, local=True, flag_set="other")
    assert one.get_boolean_value("boolean", False) is True
    assert two.get_boolean_value("boolean", False) is False


class Noted(Hook):
    """Records the stages in which it was called."""

    def __init__(self, name: str, stages: list[str]) -> None:
        self._name, self._stages = name, stages

    def before(self, hook_context: Any, hints: Any) -> None:
        self._stages.append(f"before {self._name}")

    def after(self, hook_context: Any, details: FlagEvaluationDetails[Any], hints: Any) -> None:
        self._stages.append(f"after {self._name} {details.variant}")

    def finally_after(self, hook_context: Any, details: FlagEvaluationDetails[Any], hints: Any) -> None:
        self._stages.append(f"finally {self._name}")


async def test_hooks_run_in_order_and_track_has_no_effect(server: Client, provided: Provided) -> None:
    client = await asyncio.to_thread(provided, server.target, timeout_s=5.0)
    stages: list[str] = []
    client.add_hooks([Noted("client", stages)])
    options = FlagEvaluationOptions(hooks=[Noted("call", stages)])
    await asyncio.to_thread(client.get_boolean_value, "boolean", False, None, options)
    assert stages == [
        "before client", "before call", "after call a", "after client a", "finally call", "finally client",
    ]  # fmt: skip
    client.track("bought")


class Heard:
    """Events of one client, in order."""

    def __init__(self, client: OpenFeatureClient) -> None:
        self.events: list[tuple[str, tuple[str, ...]]] = []
        for event in ProviderEvent:
            client.add_handler(event, self._handler(event))

    def _handler(self, event: ProviderEvent) -> Callable[[EventDetails], None]:
        return lambda details: self.events.append((event.name, tuple(details.flags_changed or ())))

    def until(self, name: str, *keys: str, seconds: float = 20.0) -> None:
        """Wait for an event."""
        began = time.monotonic()
        while (name, keys) not in self.events:
            assert time.monotonic() - began < seconds, self.events
            time.sleep(0.01)


async def test_a_local_provider_announces_changes_and_its_status(tmp_path: Path, provided: Provided) -> None:
    store = f"sqlite:///{tmp_path}/flags.db"
    async with replica(store_url=store) as (direct, _):
        await direct.create("a", status=ON)
    with Process("--store", store, FLAGSVC_DRAIN_S="0") as process:
        client = await asyncio.to_thread(
            provided, process.address, local=True, staleness_bound_s=0.5, ready_timeout_s=20
        )
        heard = Heard(client)
        process.kill()
        await asyncio.to_thread(heard.until, "PROVIDER_STALE")
        found = client.get_boolean_details("a", False)
        assert (found.value, found.reason) == (True, Reason.STALE)
        async with replica(store_url=store) as (direct, _):
            await direct.toggle("a", False)
        process.start()
        await asyncio.to_thread(heard.until, "PROVIDER_CONFIGURATION_CHANGED", "a")
        assert client.get_boolean_value("a", True) is True
        assert client.get_boolean_details("a", True).reason is Reason.DISABLED
    names = [name for name, _ in heard.events]
    assert names.index("PROVIDER_STALE") < len(names) - 1 - names[::-1].index("PROVIDER_READY")


async def test_a_local_provider_becomes_stale_when_the_server_is_silent_and_not_before(
    server: Client, provided: Provided, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "HEARTBEAT_S", 0.2)
    proxy = Proxy(int(server.target.rpartition(":")[2]), label="flagsvc")
    await proxy.start()
    target, bound_s = f"127.0.0.1:{proxy.port}", 2.0
    client = await asyncio.to_thread(provided, target, local=True, staleness_bound_s=bound_s, ready_timeout_s=20)
    heard = Heard(client)
    await asyncio.sleep(2 * bound_s)
    assert heard.events == [("PROVIDER_READY", ())], "heartbeats are heard"
    proxy.stall("flagsvc")
    await asyncio.to_thread(heard.until, "PROVIDER_STALE")
    assert client.get_boolean_details("boolean", False).reason == Reason.STALE
    await proxy.heal("flagsvc")
    await until(lambda: heard.events[-1][0] == "PROVIDER_READY")
    assert client.get_boolean_details("boolean", False).reason == Reason.STATIC
    await proxy.close()


@both
async def test_a_server_that_is_away_delays_nobody_for_long(tmp_path: Path, local: bool) -> None:
    port, began = free_port(), time.monotonic()
    provider = FlagsvcProvider(f"127.0.0.1:{port}", local=local, ready_timeout_s=0.3)
    with pytest.raises(ProviderNotReadyError):
        await asyncio.to_thread(provider.initialize, EvaluationContext())
    assert time.monotonic() - began < 3
    found = provider.resolve_boolean_details("a", True)
    assert (found.value, found.error_code) == (True, ErrorCode.PROVIDER_NOT_READY)
    provider.shutdown()
    with pytest.raises(ProviderNotReadyError, match="not initialized"):
        provider.resolve_boolean_details("a", True)


@both
async def test_a_shutdown_leaves_nothing_behind(server: Client, local: bool) -> None:
    tasks = len(asyncio.all_tasks())
    provider = FlagsvcProvider(server.target, local=local)
    await asyncio.to_thread(provider.initialize, EvaluationContext())
    await provider.resolve_boolean_details_async("boolean", False)
    provider.shutdown()
    began = time.monotonic()
    while len(asyncio.all_tasks()) > tasks or any(t.name.startswith("flagsvc") for t in threading.enumerate()):
        assert time.monotonic() - began < 10, (asyncio.all_tasks(), threading.enumerate())
        await asyncio.sleep(0.02)
