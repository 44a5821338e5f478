"""The role public: over OFREP it sees the flags whose exposure is PUBLIC, and no sign of others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from copy import copy
from functools import partial

import grpc
import httpx
import pytest

from flagsvc.core.access.roles import Role
from flagsvc.core.access.tokens import create
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.server import Server
from flagsvc.serving.writer import WaitFor
from flagsvc.settings import Settings
from flagsvc.urls import SettingsError
from tests.access.callers import Headers, bearer, guarded, made, stored
from tests.ofrep.asking import EVENTS_PATH, FLAGS_PATH, EventStream
from tests.replicas import Client

PUBLIC, INTERNAL = types.EXPOSURE_PUBLIC, types.EXPOSURE_INTERNAL
FLAGS = {"banner": PUBLIC, "billing": INTERNAL, "old": types.EXPOSURE_UNSPECIFIED}


class Site:
    """A flag set with a public and two internal flags. `page` has a token with the role public, `backend` evaluate."""

    def __init__(self, client: Client, server: Server, http: httpx.AsyncClient, flag_set: str) -> None:
        self.client, self.server, self.http, self.flag_set = client, server, http, flag_set
        self.root: Headers = ()
        self.page: Headers = ()
        self.backend: Headers = ()
        self.page_id = ""

    def headers(self, *headers: tuple[str, str]) -> list[tuple[str, str]]:
        return [*headers, ("flagd-selector", f"flagSetId={self.flag_set}")]

    async def all(self, headers: Headers = ()) -> httpx.Response:
        return await self.http.post(FLAGS_PATH, json={}, headers=self.headers(*headers))

    async def keys(self, headers: Headers = ()) -> list[str]:
        answer = await self.all(headers)
        assert answer.status_code == 200
        return [each["key"] for each in answer.json()["flags"]]

    async def one(self, key: str, headers: Headers = ()) -> httpx.Response:
        return await self.http.post(f"{FLAGS_PATH}/{key}", json={}, headers=self.headers(*headers))

    async def create(self, key: str, exposure: types.Exposure.ValueType = INTERNAL) -> None:
        flag = types.Flag(key=key, flag_set=self.flag_set, status=types.FLAG_STATUS_ENABLED, exposure=exposure)
        await self.client.stub.CreateFlag(pb.CreateFlagRequest(flag=flag), metadata=self.root, timeout=5)

    async def delete(self, key: str) -> None:
        request = pb.DeleteFlagRequest(flag_key=key, flag_set=self.flag_set)
        await self.client.stub.DeleteFlag(request, metadata=self.root, timeout=5)

    async def expose(self, key: str, exposure: types.Exposure.ValueType, headers: Headers = ()) -> str:
        """Change a flag's exposure, and return the etag of the set's configuration after it."""
        request = pb.UpdateFlagRequest(flag=types.Flag(key=key, flag_set=self.flag_set, exposure=exposure))
        request.update_mask.paths.append("exposure")
        found = (await self.client.stub.UpdateFlag(request, metadata=headers or self.root, timeout=5)).flag
        assert found.exposure == (PUBLIC if exposure == PUBLIC else types.EXPOSURE_UNSPECIFIED)
        return str(found.etag)

    async def toggle(self, key: str) -> str:
        request = pb.ToggleFlagRequest(flag_key=key, flag_set=self.flag_set, enabled=True)
        return str((await self.client.stub.ToggleFlag(request, metadata=self.root, timeout=5)).flag.etag)

    @asynccontextmanager
    async def events(self, headers: Headers = (), url: str = EVENTS_PATH) -> AsyncIterator[EventStream]:
        async with self.http.stream("GET", url, headers=self.headers(*headers)) as answer:
            assert answer.status_code == 200
            stream = EventStream(answer)
            await stream.opened()
            yield stream

    async def token(self, role: str) -> tuple[str, Headers]:
        """Make a token; return its id and the headers of its callers."""
        access, (token, text) = self.server.replica.access, made(role)
        assert access is not None
        assert self.server.replica.store.tokens is not None
        await self.server.replica.store.tokens.write(token.id, create(token))
        await access.follower.looked()
        return token.id, bearer(text)


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    url = f"sqlite:///{tmp_path_factory.mktemp('public')}/flags.db"
    root, root_text = made("admin")
    await stored(url, root)
    async with (
        guarded(url, anonymous="ofrep=public@*", ofrep_port=0) as (client, server),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.ofrep_port}", timeout=10) as http,
    ):
        found = Site(client, server, http, "default")
        found.root = bearer(root_text)
        found.page_id, found.page = await found.token("public")
        _, found.backend = await found.token("evaluate")
        yield found


@pytest.fixture
async def site(served: Site, request: pytest.FixtureRequest) -> Site:
    found = copy(served)
    found.flag_set = request.node.name[:200]
    for key, exposure in FLAGS.items():
        await found.create(key, exposure)
    return found


async def test_only_public_flags_are_listed_to_the_public(site: Site) -> None:
    assert await site.keys() == await site.keys(site.page) == ["banner"]
    assert await site.keys(site.backend) == await site.keys(site.root) == ["banner", "billing", "old"]


async def test_another_flag_is_answered_as_one_that_does_not_exist(site: Site) -> None:
    assert (await site.one("banner", site.page)).json()["value"] is True
    for who in ((), site.page):
        answers = [await site.one(key, who) for key in ("billing", "old", "nothing")]
        assert [each.status_code for each in answers] == [404] * 3
        texts = {
            each.text.replace(key, "KEY") for each, key in zip(answers, ("billing", "old", "nothing"), strict=True)
        }
        assert len(texts) == 1
        heads = [{name: value for name, value in each.headers.items() if name != "content-length"} for each in answers]
        assert heads[0].keys() == heads[2].keys()
    assert (await site.one("nothing", site.backend)).json() == (await site.one("nothing", site.page)).json()
    assert (await site.one("billing", site.backend)).status_code == 200


async def test_a_change_of_exposure_holds_at_once(site: Site) -> None:
    await site.expose("old", PUBLIC)
    assert await site.keys(site.page) == ["banner", "old"]
    await site.expose("banner", INTERNAL)
    await site.expose("old", types.EXPOSURE_UNSPECIFIED)
    assert await site.keys(site.page) == []
    assert (await site.one("banner", site.page)).status_code == 404


async def test_answers_of_roles_are_never_taken_for_one_another(site: Site) -> None:
    answers = [await site.all(who) for who in ((), site.page, site.backend)]
    tags = [each.headers["etag"] for each in answers]
    assert len(set(tags)) == 3
    for who in ((), site.page, site.backend):
        for tag, answer in zip(tags, answers, strict=True):
            again = await site.all((*who, ("if-none-match", tag)))
            is_own = answer is answers[((), site.page, site.backend).index(who)]
            assert (again.status_code == 304) == is_own or again.json()["eventStreams"] != answer.json()["eventStreams"]


async def test_the_public_hears_of_what_it_may_see_and_of_what_it_could_see_before(site: Site) -> None:
    async with site.events(site.page) as page, site.events() as everybody, site.events(site.backend) as backend:
        await until_event((page, everybody, backend), await site.toggle("banner"))
        for key in ("billing", "old"):
            await until_event((backend,), await site.toggle(key))
        await site.create("secret")
        await site.delete("secret")
        await until_event((backend,), await site.toggle("old"))
        changes = [partial(site.toggle, "banner"), partial(site.expose, "old", PUBLIC)]
        for change in (*changes, partial(site.expose, "old", INTERNAL)):
            etag = await change()
            assert [(await each.event())["etag"] for each in (page, everybody)] == [etag] * 2, "the next event is this"
        await site.delete("banner")
        await page.event()
        await everybody.event()
        position = page.id
        await until_event((backend,), await site.toggle("old"))
    async with site.events((*site.page, ("last-event-id", position))) as page:
        assert page.id == position, "nothing that it may notice has happened since"
        await page.nothing(0.05)


async def until_event(streams: Iterable[EventStream], etag: str) -> None:
    for stream in streams:
        while (await stream.event())["etag"] != etag:
            pass


async def test_a_new_client_gets_no_event_for_what_it_may_not_see(served: Site) -> None:
    site = copy(served)
    site.flag_set = "new"
    await site.create("a")
    async with site.events(site.page) as stream:
        await stream.nothing(0.05)
    await site.create("b", PUBLIC)
    async with site.events(site.page) as stream:
        await stream.event()


async def test_its_ticket_is_for_the_same_and_no_more(site: Site) -> None:
    [stream] = (await site.all(site.page)).json()["eventStreams"]
    async with site.events(url=stream["endpoint"]["requestUri"]) as page, site.events(site.backend) as backend:
        await page.event()
        await backend.event()
        await site.toggle("billing")
        await backend.event()
        await page.nothing(0.05)


@pytest.mark.parametrize("before", [Role.PUBLIC, Role.EVALUATE])
async def test_a_stream_ends_when_its_caller_is_to_see_more_or_less(site: Site, before: Role) -> None:
    access = site.server.replica.access
    assert access is not None
    root = access.authority.identify(site.root[0][1].removeprefix("Bearer "))
    assert root is not None
    token_id, headers = await site.token(before)
    async with site.events(headers) as stream:
        after = Role.EVALUATE if before is Role.PUBLIC else Role.PUBLIC
        await access.writer.update(root, token_id, {"role": after}, None, WaitFor())
        async with asyncio.timeout(5):
            with suppress(StopAsyncIteration):
                while True:
                    await stream.block()


async def test_it_may_do_nothing_else(site: Site) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await site.client.stub.EvaluateFlag(pb.EvaluateFlagRequest(flag_key="banner"), metadata=site.page, timeout=5)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    path, body = "/flagd.evaluation.v1.Service/ResolveBoolean", {"flagKey": "banner"}
    for headers in ((), site.page):
        answer = await site.http.post(path, json=body, headers=[*headers, ("content-type", "application/json")])
        assert answer.status_code == 403


async def test_who_may_write_sets_the_exposure_and_no_other(site: Site) -> None:
    (_, toggler), (_, writer) = await site.token("toggle"), await site.token("write")
    for headers, exposure, code in (
        (toggler, PUBLIC, grpc.StatusCode.PERMISSION_DENIED),
        (writer, 7, grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await site.expose("old", exposure, headers)  # type: ignore[arg-type]
        assert caught.value.code() is code
    assert "flag.exposure" in (caught.value.details() or "")
    await site.expose("old", PUBLIC, writer)


@pytest.mark.parametrize("text", ["grpc=public@default", "sync=public@*"])
def test_only_ofrep_can_give_the_role_to_everybody(text: str) -> None:
    with pytest.raises(SettingsError, match="and for ofrep public"):
        Settings.from_env({"FLAGSVC_ANONYMOUS": text})
