# ruff: noqa: T201  times are read with -rP
"""Local evaluation: the server's answers without a call, even when the server is gone."""

from __future__ import annotations

import asyncio
import builtins
import random
import stat
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from flagsvc_client import ErrorCode, Flag, FlagClient, FlagServiceError, Reason, Source, Status
from flagsvc_client.client_events import ClientEvent, Events
from flagsvc_client.local.flag_set import LocalFlagSet
from flagsvc_client.local.settings import EvaluationSettings
from flagsvc_client.local.updater import LocalUpdater

from flagsvc.core.validation import MAX_CONTEXT_VALUES
from tests.client.forms import FORMS, asked
from tests.faults.proxy import Proxy
from tests.replicas import Process, replica, until
from tests.servers import free_port
from tests.sizes import examples

THREE = (
    '{"if":[{"and":[{"==":[{"var":"plan"},"pro"]},{"in":[{"var":"country"},["DE","AT"]]},{">=":[{"var":"age"},18]}]},'
    '"on","off"]}'
)
RULES = {
    "three": THREE,
    "split": '{"fractional": [["on", 50], ["off", 50]]}',
    "by-plan": '{"fractional": [{"cat": [{"var": "$flagd.flagKey"}, {"var": "plan"}]}, ["on", 25], ["off", 75]]}',
    "version": '{"if": [{"sem_ver": [{"var": "version"}, ">=", "1.4.0"]}, "on", "off"]}',
    "wrong-variant": '{"var": "plan"}',
    "nothing": '{"if": [false, "on"]}',
    "divides": '{"if": [{"/": [1, {"var": "age"}]}, "on", "off"]}',
}
SAME = ("flag_key", "value", "variant", "reason", "error_code", "flag_metadata", "revision", "status", "enabled")


@asynccontextmanager
async def served(folder: Path, *keys: str) -> AsyncIterator[tuple[Any, str]]:
    """A server with flags that are on."""
    async with replica(store_url=f"sqlite:///{folder}/flags.db") as (direct, server):
        for key in keys:
            await direct.create(key, status=1)
        yield direct, f"127.0.0.1:{server.port}"


@pytest.mark.parametrize("form", FORMS)
async def test_the_server_and_the_local_client_answer_the_same(form: str, tmp_path: Path) -> None:
    values = random.Random(1)
    contexts: list[dict[str, Any]] = [{}, {"targetingKey": "u"}, {"plan": None, "age": "x", "version": "1.x"}]
    for number in range(examples(24)):
        drawn = {
            "targetingKey": f"user-{number}",
            "plan": values.choice(["pro", "free", "on", 1, True]),
            "country": values.choice(["DE", "AT", "FR"]),
            "age": values.choice([0, 17, 18, 18.0, 40]),
            "version": values.choice(["1.3.9", "1.4.0", "v2", 1.5]),
            "nested": {"a": [1, {"b": None}]},
        }
        contexts.append({name: value for name, value in drawn.items() if values.random() < 0.8})
    async with served(tmp_path) as (_, target), asked(form, target, timeout_s=5.0) as network:
        for key, rule in RULES.items():
            await network.create(Flag(key=key, status=Status.ENABLED, targeting=rule, metadata={"n": 1}))
        await network.create(Flag(key="beta", status=Status.BETA, targeting=THREE))
        await network.create(Flag(key="off"))
        await network.create(Flag(key="old", status=Status.DEPRECATED))
        for key, value in (("text", "x"), ("whole", 7), ("part", 7.5), ("object", {"a": [1]})):
            await network.create(Flag(key=key, status=Status.ENABLED, variants={"v": value}, default_variant="v"))
        async with asked(form, target, local=True) as local:
            assert await local.wait_ready()
            compared = 0
            for context in contexts:
                for key in [*RULES, "beta", "off", "old", "text", "whole", "part", "object", "unknown"]:
                    for default in (False, "x", 1, 1.5, {}):
                        there = await network.details(key, context, default=default)
                        here = await local.details(key, context, default=default)
                        assert [getattr(there, n) for n in SAME] == [getattr(here, n) for n in SAME], (key, context)
                        compared += 1
                    assert await network.is_enabled(key, context) == await local.is_enabled(key, context)
            there, here = await network.batch((), contexts[5]), await local.batch((), contexts[5])
            assert {k: d.value for k, d in there.items()} == {k: d.value for k, d in here.items()}
    print(f"{form}: {compared} answers compared")


@pytest.mark.parametrize("form", FORMS)
async def test_a_toggle_arrives_and_own_writes_are_read_at_once(form: str, tmp_path: Path) -> None:
    async with served(tmp_path, "a", "b") as (direct, target), asked(form, target, local=True) as local:
        assert await local.wait_ready()
        took = []
        for number in range(10):
            on = number % 2 == 1
            await direct.toggle("a", on)
            began = time.perf_counter()
            while await local.is_enabled("a") is not on:
                assert time.perf_counter() - began < 5
                await asyncio.sleep(0.0005)
            took.append((time.perf_counter() - began) * 1000)
            await local.toggle("b", on)
            assert await local.is_enabled("b") is on
        print(f"{form}: from a toggle's answer to the local answer {max(took):.1f} ms at most")
        await local.delete("a")
        assert (await local.details("a", default=True)).error_code is ErrorCode.FLAG_NOT_FOUND
        asked_for = await local.details("b", default=False, min_revision=10_000, timeout_s=0.3)
        assert asked_for.error_code is ErrorCode.PROVIDER_NOT_READY, "the server was asked, and has no such revision"


@pytest.mark.parametrize("form", FORMS)
async def test_a_server_that_goes_away_and_returns(form: str, tmp_path: Path) -> None:
    store, events = f"sqlite:///{tmp_path}/flags.db", list[ClientEvent]()
    async with served(tmp_path, "a"):
        pass
    server = Process("--store", store, FLAGSVC_DRAIN_S="0")
    async with asked(form, server.address, local=True, staleness_bound_s=0.7, on_event=events.append) as local:
        found = await local.details("a", default=True)
        assert (found.value, found.error_code, found.source) == (True, ErrorCode.PROVIDER_NOT_READY, Source.NONE)
        await until(lambda: local.state == "error")
        server.start()
        assert await local.wait_ready(20)
        assert (await local.details("a", default=False)).reason is Reason.STATIC
        server.kill()
        await until(lambda: local.state == "stale")
        found = await local.details("a", default=False)
        assert (found.value, found.reason, found.source) == (True, Reason.STALE, Source.LOCAL)
        assert found.age_ms >= 700
        async with served(tmp_path) as (direct, _):
            await direct.toggle("a", False)
        server.start()
        assert await local.wait_ready(20)
        assert await local.is_enabled("a") is False
    server.kill()
    assert [e.kind for e in events if e.kind != "changed"] == ["error", "ready", "stale", "ready"]
    assert [set(e.keys) for e in events if e.kind == "changed"] == [{"a"}, {"a"}]


@pytest.mark.parametrize("form", FORMS)
async def test_a_snapshot_file_answers_while_the_server_is_away(form: str, tmp_path: Path) -> None:
    file = tmp_path / "flags.snapshot"
    async with served(tmp_path, "a") as (_, target), asked(form, target, local=True, snapshot_file=file) as local:
        assert await local.wait_ready()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert snapshots_in(tmp_path) == [file.name], "the scratch file is gone"
    nowhere = f"127.0.0.1:{free_port()}"
    async with asked(form, nowhere, local=True, snapshot_file=file) as local:
        found = await local.details("a", default=False)
        assert (found.value, found.reason, found.source) == (True, Reason.STATIC, Source.SNAPSHOT)
        assert (await local.details("nope", default=1)).error_code is ErrorCode.FLAG_NOT_FOUND
    async with asked(form, nowhere, local=True, snapshot_file=file, staleness_bound_s=0.0) as local:
        assert (await local.details("a", default=False)).reason is Reason.STALE


@pytest.mark.parametrize("broken", ["cut", "changed", "empty", "other set", "newer"])
def test_an_unusable_snapshot_is_reported_and_ignored(
    broken: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "flags.snapshot"
    writer = LocalUpdater("default", LocalFlagSet(30.0), _no_events(), file)
    writer.flags.replace([Flag(key="a", status=Status.ENABLED, revision=1)], 1)
    writer._unsaved = True
    writer.save()
    text, flag_set = file.read_text(), "default"
    assert LocalUpdater("default", LocalFlagSet(30.0), _no_events(), file).flags.complete
    match broken:
        case "cut":
            file.write_text(text[:-20])
        case "changed":
            file.write_text(text.replace("ENABLED", "DISABLE"))
        case "empty":
            file.write_text("")
        case "newer":
            file.write_text(text.replace("snapshot 2", "snapshot 3"))
        case "other set":
            flag_set = "other"
    caplog.clear()
    reader = LocalUpdater(flag_set, LocalFlagSet(30.0), _no_events(), file)
    assert not reader.flags.complete
    assert len(caplog.records) == 1
    assert "is ignored" in caplog.text


def test_a_server_with_older_data_brings_nothing_back() -> None:
    local = LocalFlagSet(30.0)
    local.replace([flag("a", 5), flag("b", 2)], 5)
    assert local.change("b", None, 6, 6) == {"b"}
    assert local.replace([flag("a", 3), flag("b", 2), flag("c", 4)], 4) == frozenset(), "c was deleted since"
    assert local.change("c", flag("c", 4), 4, 4) == frozenset()
    assert local.details("a", None, default=False).revision == 5
    for key in ("b", "c"):
        assert local.details(key, None, default=False).error_code is ErrorCode.FLAG_NOT_FOUND
    assert local.change("a", flag("a", 4), 4, 4) == frozenset()
    assert local.watermark == 6
    assert local.replace([flag("a", 5), flag("c", 7)], 7) == {"c"}
    assert local.replace([flag("a", 5)], 8) == {"c"}, "what is gone as of a later revision is gone"


def test_a_restored_store_is_followed_by_a_client_that_restarts() -> None:
    local = LocalFlagSet(30.0)
    local.restore([flag("a", 50), flag("b", 40)], 50, 1.0, EvaluationSettings())
    assert local.replace([Flag(key="a", revision=3)], 3) == {"a", "b"}
    assert local.details("a", None, default=True).reason is Reason.DISABLED
    assert local.details("b", None, default=True).error_code is ErrorCode.FLAG_NOT_FOUND
    assert (local.watermark, local.source) == (3, Source.LOCAL)


def test_changing_a_returned_value_affects_nobody_else() -> None:
    local, value = LocalFlagSet(30.0), {"n": 1}
    held = Flag(
        key="o", status=Status.ENABLED, revision=1, variants={"x": value}, default_variant="x", metadata={"m": 1}
    )
    local.replace([held], 1)
    found = local.details("o", None, default={})
    found.value["n"] = 2
    with pytest.raises(TypeError):
        found.flag_metadata["m"] = 2
    assert local.details("o", None, default={}).value == {"n": 1}


def test_unknown_flags_are_not_taken_for_known() -> None:
    local = LocalFlagSet(30.0)
    assert local.details("a", None, default=False).error_code is ErrorCode.PROVIDER_NOT_READY
    local.replace([flag("a", 5)], 5)
    assert local.details("a", None, default=False, min_revision=5).value is True
    assert local.details("a", None, default=False, min_revision=6) is None


async def test_a_stream_that_is_stalled_is_cut_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for form in FORMS:
        monkeypatch.setattr(f"flagsvc_client.transport.{form}.IDLE_TIMEOUT_S", 0.5)
    async with served(tmp_path, "a") as (direct, target):
        proxy = Proxy(int(target.rpartition(":")[2]), label="flagsvc")
        await proxy.start()
        for form in FORMS:
            async with asked(form, f"127.0.0.1:{proxy.port}", local=True) as local:
                assert await local.wait_ready()
                proxy.open("flagsvc")[-1].stalled = True
                on = not await local.is_enabled("a")
                await direct.toggle("a", on)
                await asyncio.to_thread(time.sleep, 0.1)
                assert await local.is_enabled("a") is not on
                proxy.cut("flagsvc")
                began = time.monotonic()
                while await local.is_enabled("a") is not on:
                    assert time.monotonic() - began < 10
                    await asyncio.sleep(0.02)
        await proxy.close()


async def test_a_listener_that_fails_disturbs_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with served(tmp_path, "a") as (_, target), asked("sync", target, local=True, on_event=_fails) as local:
        assert await local.wait_ready()
        assert await local.is_enabled("a")
    assert "a listener failed on event ready" in caplog.text


async def test_ten_thousand_flags(tmp_path: Path) -> None:
    flags = [Flag(key=f"flag-{n}", status=Status.ENABLED, targeting=THREE, revision=n + 1) for n in range(10_000)]
    local = LocalFlagSet(30.0)
    began = time.perf_counter()
    local.replace(flags, 10_000)
    replaced = time.perf_counter() - began
    updater = LocalUpdater("default", local, _no_events(), tmp_path / "snapshot")
    updater._unsaved = True
    began = time.perf_counter()
    updater.save()
    saved = time.perf_counter() - began
    began = time.perf_counter()
    again = LocalUpdater("default", LocalFlagSet(30.0), _no_events(), tmp_path / "snapshot")
    read = time.perf_counter() - began
    assert len(again.flags.keys()) == 10_000
    print(f"10,000 flags: taken in {replaced * 1000:.0f} ms, saved in {saved * 1000:.0f}, read in {read * 1000:.0f}")


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **named: Any) -> Any:
        if name in ("mmh3", "flagsvc_client.local.updater"):
            raise ModuleNotFoundError(f"No module named {name!r}", name="mmh3")
        return real(name, *args, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "flagsvc_client.local.updater", raising=False)
    with pytest.raises(ImportError, match=r"needs mmh3: pip install 'flagsvc-client\[local\]'"):
        FlagClient("127.0.0.1:1", local=True)


def snapshots_in(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir() if "snapshot" in each.name]


def _fails(event: ClientEvent) -> None:
    raise ValueError(event.kind)


def flag(key: str, revision: int) -> Flag:
    return Flag(key=key, status=Status.ENABLED, revision=revision)


def _no_events() -> Any:
    return Events(None)


@pytest.mark.parametrize("form", FORMS)
async def test_an_invalid_message_is_reported_and_the_watch_continues(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    apply, failed = LocalUpdater.apply, []

    def failing(self: LocalUpdater, message: Any) -> None:
        if message.HasField("change") and not failed:
            failed.append(message)
            raise KeyError("a field of tomorrow")
        apply(self, message)

    monkeypatch.setattr(LocalUpdater, "apply", failing)
    async with served(tmp_path, "a") as (direct, target), asked(form, target, local=True) as client:
        await client.wait_ready(10)
        await direct.toggle("a", False)
        await until(lambda: bool(failed))
        deadline = time.monotonic() + 10
        while await client.is_enabled("a"):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
    assert "a field of tomorrow" in caplog.text


def test_a_context_of_more_values_than_the_server_takes_is_refused_with_the_servers_words() -> None:
    local = LocalFlagSet(30.0)
    local.replace([Flag(key="a", status=Status.ENABLED, revision=1)], 1)
    most: dict[str, Any] = {"targetingKey": "anna", "list": [0] * (MAX_CONTEXT_VALUES - 1)}
    found = local.details("a", most, default=False)
    assert found is not None
    assert found.value is True
    with pytest.raises(FlagServiceError) as caught:
        local.details("a", {**most, "one": 1}, default=False)
    assert caught.value.reason == "INVALID_CONTEXT"
    assert "context is 'more fields'; it must be at most 5000 fields and list elements" in str(caught.value)
