"""Which flags flagd's clients see: with each selector and without one, from files and from other stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from flagsvc.generated.flagd.sync.v1 import sync_pb2 as sync
from flagsvc.generated.flagd.sync.v1 import sync_pb2_grpc as sync_grpc
from tests.flagd_clients import Evaluator, Metadata, refused, selecting
from tests.providers.cases import SWITCH, flag
from tests.replicas import Client, replica, until_serving


def file_of(path: Path, metadata: dict[str, Any], **flags: dict[str, Any]) -> None:
    definition = {"state": "ENABLED", "variants": {path.stem: path.stem}, "defaultVariant": path.stem}
    written = {key: definition | ({"metadata": own} if own else {}) for key, own in flags.items()}
    path.write_text(json.dumps({"flags": written} | ({"metadata": metadata} if metadata else {})))


async def synced(client: Client, selector: str = "") -> dict[str, Any]:
    """Return what an in-process provider gets: each flag's default variant, which names its file, and metadata."""
    stub = sync_grpc.FlagSyncServiceStub(client.channel)
    headers: Metadata = selecting(selector) if selector else ()
    answer = await stub.FetchAllFlags(sync.FetchAllFlagsRequest(), metadata=headers, timeout=5)
    flags = json.loads(answer.flag_configuration)["flags"]
    return {key: (each["defaultVariant"], each.get("metadata", {})) for key, each in flags.items()}


async def test_files_are_selected_as_in_flagd(tmp_path: Path) -> None:
    """The expected answers are those of flagd 0.16.1 for the same two files."""
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    file_of(a, {}, both={}, plain={}, named={"flagSetId": "tenant-a", "team": "x"}, odd={"flagSetId": "default"})
    file_of(b, {"flagSetId": "web"}, both={}, b={})
    web, tenant, odd = {"flagSetId": "web"}, {"flagSetId": "tenant-a", "team": "x"}, {"flagSetId": "default"}
    selected: dict[str, dict[str, Any]] = {
        "": {
            "both": ("b", web),
            "plain": ("a", {}),
            "named": ("a", tenant),
            "odd": ("a", odd),
            "b": ("b", web),
        },
        "flagSetId=web": {"both": ("b", web), "b": ("b", web)},
        "flagSetId=tenant-a": {"named": ("a", tenant)},
        "flagSetId=default": {"odd": ("a", odd)},
        f"source={a}": {"both": ("a", {}), "plain": ("a", {}), "named": ("a", tenant), "odd": ("a", odd)},
        str(b): {"both": ("b", web), "b": ("b", web)},
        "flagSetId=": {"both": ("a", {}), "plain": ("a", {})},
        "source=web": {},
        "web": {},
        f"flagSetId={a}": {},
    }
    async with replica(store_url=f"file:{a},{b}") as (client, _):
        await until_serving(client)
        v1 = Evaluator("v1", client.channel)
        for selector, expected in selected.items():
            assert await synced(client, selector) == expected, selector
            headers: Metadata = selecting(selector) if selector else ()
            found = await v1.resolve_all(headers=headers)
            assert {key: each["variant"] for key, each in found.get("flags", {}).items()} == {
                key: variant for key, (variant, _) in expected.items()
            }
        found = await v1.resolve("String", "plain")
        assert found["metadata"] == {}


async def test_one_file_is_selected_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    file_of(path, {}, a={})
    async with replica(store_url=f"file:{path}") as (client, _):
        await until_serving(client)
        assert await synced(client, str(path)) == await synced(client) == {"a": ("a", {})}
        assert await synced(client, "source=elsewhere") == {}


async def test_each_listener_has_a_set_for_callers_without_a_selector(tmp_path: Path) -> None:
    ports = {"sync_port": 0, "ofrep_port": 0}
    sets = "grpc=web; sync=other"
    async with replica(store_url=f"sqlite:///{tmp_path}/f.db", default_flag_set=sets, **ports) as (client, server):
        await until_serving(client)
        for flag_set in ("web", "other", ""):
            made = flag("a", SWITCH, "on", flag_set=flag_set, metadata={"of": flag_set or "default"})
            await client.create(
                "a", **{name: getattr(made, name) for name in ("flag_set", "status", "variants", "default_variant")}
            )
            await client.create(f"only-{flag_set}", flag_set=flag_set)
        of_sync = Client(f"127.0.0.1:{server.sync_port}")
        for each, flag_set in ((client, "web"), (of_sync, "other")):
            v1 = Evaluator("v1", each.channel)
            assert (await v1.resolve_all())["flags"].keys() == {"a", f"only-{flag_set}"}
            assert (await synced(each)).keys() == {"a", f"only-{flag_set}"}
            assert (await v1.resolve_all(headers=selecting("flagSetId=")))["flags"].keys() == {"a", "only-"}
            assert (await refused(v1.resolve("Boolean", "only-")))[0] is grpc.StatusCode.NOT_FOUND
            events = v1.events()
            assert (await events.next())[0] == "provider_ready"
            assert (await events.next())[1].keys() == {"a", f"only-{flag_set}"}
            assert (await each.evaluate("only-")).flag_key == "only-", "FlagService names its set in every request"
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.ofrep_port}") as http:
            answer = (await http.post("/ofrep/v1/evaluate/flags", json={})).json()
        assert {each["key"] for each in answer["flags"]} == {"a", "only-"}
        await of_sync.channel.close()


@pytest.mark.parametrize(("setting", "flag_set"), [("web", "web"), ("", "default")])
async def test_one_name_is_the_default_set_of_every_listener(tmp_path: Path, setting: str, flag_set: str) -> None:
    async with replica(store_url=f"sqlite:///{tmp_path}/f.db", default_flag_set=setting) as (_, server):
        assert {listener.selectors.of(()).flag_set for listener in server.listeners.values()} == {flag_set}
