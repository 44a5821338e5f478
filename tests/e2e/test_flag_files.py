"""`--store file:`: flagd's files are served unchanged and followed, and the last good content is kept."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from flagsvc.adapters.build import cache_for
from flagsvc.adapters.files import store
from flagsvc.adapters.files.store import FileStore
from flagsvc.core.errors import StoreUnavailable, WritesUnsupported
from flagsvc.core.model import FlagId
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.settings import Settings
from flagsvc.urls import SettingsError
from tests.flag_files import replace_file
from tests.replicas import FLAGSVC, Client, Process, reason_of, replica, starved_s, until, until_serving

DATA = Path(__file__).parents[1] / "data" / "flagd"
NOTICED_S = 1.0
"""A poll every 0.2 s, 0.05 s for a file to settle, and slack for a busy machine."""


def flags(**values: str) -> str:
    """A file of string flags, each with one value."""
    made = {k: {"state": "ENABLED", "variants": {"v": value}, "defaultVariant": "v"} for k, value in values.items()}
    return json.dumps({"flags": made}, indent=1)


async def value(client: Client, key: str, flag_set: str = "") -> Any:
    evaluation = await client.evaluate(key, flag_set=flag_set)
    return evaluation.value.string_value or types.ErrorCode.Name(evaluation.error_code).removeprefix("ERROR_CODE_")


async def until_value(client: Client, key: str, wanted: object, seconds: float = NOTICED_S, flag_set: str = "") -> None:
    deadline, before = time.monotonic() + seconds, starved_s()
    while (found := await value(client, key, flag_set)) != wanted:
        assert time.monotonic() < deadline + starved_s() - before, (
            f"{key} is {found!r}, not {wanted!r}, after {seconds} s"
        )
        await asyncio.sleep(0.01)


async def test_an_atomic_replace_is_served(tmp_path: Path) -> None:
    path = tmp_path / "flags.json"
    path.write_text(flags(a="1", gone="x"))
    async with replica(store_url=f"file:{path}") as (client, _):
        await until_value(client, "a", "1", 10)
        first = (await client.evaluate("a")).revision
        replace_file(path, flags(a="2", b="new"))
        await until_value(client, "a", "2")
        assert await value(client, "b") == "new"
        assert await value(client, "gone") == "FLAG_NOT_FOUND"
        assert (await client.evaluate("a")).revision > first
        replace_file(path, flags(a="2", gone="back"))
        await until_value(client, "gone", "back")


async def test_a_write_in_place_is_served_once_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SETTLE_S", 0.5)  # a busy machine's writer pauses for longer than the usual time
    monkeypatch.setattr(store, "_MAX_SETTLING_S", 30.0)
    path = tmp_path / "flags.yaml"
    path.write_text("flags:\n  a: {state: ENABLED, variants: {v: old}, defaultVariant: v}\n")
    async with replica(store_url=f"file:{path}") as (client, _):
        await until_value(client, "a", "old", 10)
        seen = set()
        with path.open("w") as file:  # valid YAML after each line, but without the flag until the last
            for line in ("flags:", *(f"  b{n}: {{state: ENABLED, variants: {{v: x}}}}" for n in range(20))):
                file.write(f"{line}\n")
                file.flush()
                await asyncio.sleep(0.02)
                seen.add(await value(client, "a"))
            file.write("  a: {state: ENABLED, variants: {v: new}, defaultVariant: v}\n")
        await until_value(client, "a", "new")
        assert seen == {"old"}


async def test_a_swap_of_links_as_kubernetes_does_it_is_served(tmp_path: Path) -> None:
    for name, content in (("one", "1"), ("two", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "flags.json").write_text(flags(a=content))
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "flags.json").symlink_to("..data/flags.json")
    async with replica(store_url=f"file:{tmp_path}/flags.json") as (client, _):
        await until_value(client, "a", "1", 10)
        (tmp_path / "..data_tmp").symlink_to("two")
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")
        await until_value(client, "a", "2")


async def test_a_broken_file_keeps_the_last_good_and_is_logged_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "flags.json"
    path.write_text(flags(a="1"))
    async with replica(store_url=f"file:{path}") as (client, server):
        await until_value(client, "a", "1", 10)
        path.write_text(flags(a="2").replace('"ENABLED"', "true").replace('"v"\n', '"w"\n'))
        reads = server.replica.store.reads
        await until(lambda: server.replica.store.reads > reads)
        reads = server.replica.store.reads
        os.utime(path)
        await until(lambda: server.replica.store.reads > reads)
        assert await value(client, "a") == "1"
        output = capsys.readouterr().out
        assert output.count("$.flags.a.state") == 1
        assert output.count("$.flags.a.defaultVariant") == 1
        path.unlink()
        await until(lambda: "cannot be read" in capsys.readouterr().out)
        assert await value(client, "a") == "1"
        assert await client.serving()
        path.write_text(flags(a="3"))
        await until_value(client, "a", "3")


async def test_several_files_merge_and_each_is_a_set_by_its_source(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    shutil.copy(DATA / "example_flags.flagd.json", first)
    shutil.copy(DATA / "example_flags.flagd.2.json", second)
    async with replica(store_url=f"file:{first},{second}") as (client, _):
        await until_value(client, "myStringFlag", "dupe1", 10)
        assert await value(client, "headerColor") == "#FF0000"
        for flag_set in ("example", f"source={first}"):
            assert await value(client, "myStringFlag", flag_set) == "val1"
        for flag_set in ("other", f"source={second}"):
            assert await value(client, "myStringFlag", flag_set) == "dupe1"
            assert await value(client, "headerColor", flag_set) == "FLAG_NOT_FOUND"
        replace_file(second, flags(other="1"))
        await until_value(client, "myStringFlag", "val1")
        assert await value(client, "myStringFlag", "other") == "FLAG_NOT_FOUND"
        assert await value(client, "other", f"source={second}") == "1"


async def test_writes_are_refused_with_advice(tmp_path: Path) -> None:
    path = tmp_path / "flags.json"
    path.write_text(flags(a="1"))
    async with replica(store_url=f"file:{path}") as (client, _):
        await until_value(client, "a", "1", 10)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.toggle("a", False)
        assert reason_of(refused.value) == "WRITES_UNSUPPORTED"
        assert "edit the files" in (refused.value.details() or "")


def test_a_broken_file_at_the_start_is_not_ready_until_it_is_corrected(tmp_path: Path) -> None:
    path = tmp_path / "flags.json"
    path.write_text('{"flags": {\n"a": {"state": "ENABLED", "variants": []}}}')
    with Process("--store", f"file:{path}", "--sync-port", "-1") as process:
        assert process.process
        assert process.process.stderr
        log = ""
        while "flag_file_rejected" not in log:
            log += process.process.stderr.readline()
        assert str(path) in log
        assert "$.flags.a.variants" in log
        assert '"line": 2' in log

        async def heal() -> None:
            client = Client(process.address)
            await until_serving(client, serving=False)
            path.write_text(flags(a="1"))
            await until_serving(client)
            assert await value(client, "a") == "1"
            await client.channel.close()

        asyncio.run(heal())


def test_store_may_be_given_several_times_for_files(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(flags(a="1", both="1"))
    (tmp_path / "b.json").write_text(flags(b="2", both="2"))
    arguments = [part for name in "ab" for part in ("--store", f"file:{tmp_path}/{name}.json")]
    with Process(*arguments, "--sync-port", "-1") as process:

        async def ask() -> list[Any]:
            client = Client(process.address)
            await until_serving(client)
            values = [await value(client, key) for key in ("a", "b", "both")]
            await client.channel.close()
            return values

        assert asyncio.run(ask()) == ["1", "2", "2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--store", "file:"), "empty file name"),
        (("--store", "file:a.json,"), "empty file name"),
        (("--store", "file:a.json", "--store", "sqlite:///x.db"), "only file: may be repeated"),
        (("--store", "file:a.json", "--cache", "redis://127.0.0.1:1"), "--cache has no effect with --store file:"),
    ],
)
def test_invalid_settings_are_refused(arguments: tuple[str, ...], message: str) -> None:
    done = subprocess.run(
        [FLAGSVC, "serve", "--port", "0", *arguments], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr


def test_a_cache_for_files_is_refused_in_the_settings() -> None:
    with pytest.raises(SettingsError, match="every replica reads the files"):
        cache_for("redis://127.0.0.1", Settings(store_url="file:a.json"))


async def opened(*paths: Path) -> FileStore:
    store = FileStore(",".join(f"file:{path}" for path in paths))
    await store.open()
    return store


async def test_revisions_grow_over_changes_and_restarts_and_stay_for_unchanged_flags(tmp_path: Path) -> None:
    path = tmp_path / "flags.json"
    path.write_text(flags(a="1", b="1"))
    store = await opened(path)
    a, b = FlagId("default", "a"), FlagId("default", "b")
    before = {flag_id: (await store.get(flag_id)).flag for flag_id in (a, b)}
    written_ms = max(path.stat().st_mtime_ns, path.stat().st_ctime_ns) // 1_000_000
    assert [flag.revision for flag in before.values() if flag] == [written_ms, written_ms]
    replace_file(path, flags(a="1", b="2"))
    os.utime(path, (0, 1_000))  # an older time, as after a copy that keeps times
    contents = await store.load()
    after = {flag.id: flag for flag in contents.flags}
    assert after[a] == before[a]
    newest = after[b].revision
    assert newest > written_ms
    assert newest == contents.revisions["default"] == (await store.revisions())["default"]
    await asyncio.sleep(0.02)  # revisions are milliseconds
    replace_file(path, flags(a="1"))
    gone = await store.load()
    assert b not in {flag.id for flag in gone.flags}
    assert gone.revisions["default"] > newest
    again = await opened(path)
    assert (await again.revisions())["default"] >= gone.revisions["default"]
    os.utime(path)
    touched = await store.load()
    assert (touched.flags, touched.revisions) == (gone.flags, gone.revisions)
    for each in (store, again):
        await each.close()


async def test_a_change_of_json_type_alone_is_a_change(tmp_path: Path) -> None:
    path = tmp_path / "flags.json"
    path.write_text('{"flags": {"a": {"state": "ENABLED", "variants": {"v": 1}, "metadata": {"m": 1}}}}')
    store = await opened(path)
    first = (await store.get(FlagId("default", "a"))).flag
    replace_file(path, path.read_text().replace('"m": 1', '"m": true'))
    second = (await store.get(FlagId("default", "a"))).flag
    assert first
    assert second
    assert second.revision > first.revision
    assert second.metadata["m"] is True
    await store.close()


async def test_a_file_store_has_no_writes_no_history_and_needs_its_files(tmp_path: Path) -> None:
    store = FileStore(f"file:{tmp_path}/none.json")
    for ask in (store.open, store.load, store.revisions):
        with pytest.raises(StoreUnavailable):
            await ask()
    with pytest.raises(WritesUnsupported, match="edit the files"):
        await store.write(FlagId("default", "a"), lambda _current: None)
    assert await store.history(FlagId("default", "a"), 10) == []
    await store.close()


async def test_five_thousand_flags_are_read_without_blocking_other_calls(tmp_path: Path) -> None:
    big, small = tmp_path / "big.json", tmp_path / "small.json"
    rule = {"if": [{"==": [{"var": "plan"}, "pro"]}, "a", "b"]}
    made = {f"f{n}": {"state": "ENABLED", "variants": {"a": 1, "b": 2}, "targeting": rule} for n in range(5_000)}
    big.write_text(json.dumps({"flags": made}))
    small.write_text(flags(a="1"))
    async with replica(store_url=f"file:{big},{small}") as (client, _):
        await until_serving(client, seconds=40)
        await until_value(client, "a", "1", 20)
        replace_file(big, json.dumps({"flags": dict(list(made.items())[1:])}))
        slowest, began = 0.0, time.monotonic()
        while await value(client, "f0") != "FLAG_NOT_FOUND":
            asked_at = time.monotonic()
            await asyncio.sleep(0.02)
            assert await value(client, "a") == "1"
            slowest = max(slowest, time.monotonic() - asked_at)
            assert time.monotonic() < began + 60
        # If they were read on the event loop, one call would wait for almost all of that time.
        assert slowest < max(1.0, (time.monotonic() - began) / 3)


async def test_a_copy_with_an_older_time_gets_no_older_revision_after_a_restart(tmp_path: Path) -> None:
    path, older = tmp_path / "flags.json", tmp_path / "older.json"
    path.write_text(flags(a="1"))
    first = FileStore(f"file:{path}")
    [before] = {revision for name, revision in (await first.revisions()).items() if name == "default"}
    older.write_text(flags(a="2"))
    os.utime(older, (1_000_000_000, 1_000_000_000))
    await asyncio.sleep(0.02)
    shutil.copy2(older, path)
    second = FileStore(f"file:{path}")
    assert (await second.revisions())["default"] > before
    await first.close()
    await second.close()


async def test_callers_do_not_see_file_names(tmp_path: Path) -> None:
    path = tmp_path / "customer-secret.json"
    path.write_text("{")
    store = FileStore(f"file:{path}")
    with pytest.raises(StoreUnavailable) as caught:
        await store.load()
    assert "secret" not in str(caught.value)
    await store.close()


async def test_only_regular_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "flags.json"
    path.write_text(flags(a="1"))
    async with replica(store_url=f"file:{path}") as (client, _):
        await until_value(client, "a", "1", 10)
        path.unlink()
        os.mkfifo(path)
        await asyncio.sleep(0.6)
        assert await value(client, "a") == "1"
        path.unlink()
        path.write_text(flags(a="2"))
        await until_value(client, "a", "2")
