"""OFREP's event streams with a ticket in their address, as EventSource opens them: who gets one, and when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from flagsvc.access.tickets import STEP_S, VALID_S
from flagsvc.api.ofrep import sse_streams
from flagsvc.core.access import tokens
from flagsvc.core.access.identity import UNCHECKED
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.server import Server
from flagsvc.serving.writer import WaitFor
from tests.access.callers import Headers, bearer, guarded, made, stored
from tests.access.issuing import AUDIENCE, KUBERNETES, ec_key, jwks, kubernetes_claims, signed
from tests.ofrep.asking import EVENTS_PATH, FLAGS_PATH, EventStream
from tests.replicas import Client, until

KEY = ec_key()


def issuers_file(folder: Path, grant: str) -> dict[str, Any]:
    rules = [{"when": [{"claim": "sub", "prefix": "system:"}], "grant": grant}]
    entry = {"issuer": KUBERNETES, "audience": AUDIENCE, "jwks": f"file:{folder}/keys.json", "rules": rules}
    return {"issuers": [entry]}


class Served:
    """A server whose listener for OFREP knows `page`, who may evaluate `mine`."""

    def __init__(self, client: Client, server: Server, http: httpx.AsyncClient) -> None:
        self.client, self.server, self.http = client, server, http
        self.folder = Path()
        self.root: Headers = ()
        self.page: Headers = ()
        self.page_id = ""

    async def all(self, headers: Headers | None = None, **more: str) -> httpx.Response:
        given = [*(self.page if headers is None else headers), ("flagd-selector", "flagSetId=mine"), *more.items()]
        return await self.http.post(FLAGS_PATH, json={}, headers=given)

    async def url(self, headers: Headers | None = None) -> str:
        [stream] = (await self.all(headers)).json()["eventStreams"]
        return str(stream["endpoint"]["requestUri"])

    @asynccontextmanager
    async def events(self, url: str, **headers: str) -> AsyncIterator[EventStream]:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.stream("GET", url, headers=given) as answer:
            assert answer.status_code == 200, await answer.aread()
            stream = EventStream(answer)
            await stream.opened()
            yield stream

    async def status(self, url: str, *headers: tuple[str, str]) -> int:
        async with self.http.stream("GET", url, headers=list(headers)) as answer:
            return answer.status_code

    def turn(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        """Let the clock of tickets go on."""
        tickets = self.server.replica.access.authority.tickets  # type: ignore[union-attr]
        monkeypatch.setattr(tickets, "_clock", lambda before=tickets._clock: before() + seconds)


async def ended(stream: EventStream) -> None:
    """Read a stream to its end."""
    with contextlib.suppress(StopAsyncIteration):
        while True:
            await stream.block()


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("tickets")
    url, issuers = f"sqlite:///{folder}/flags.db", folder / "issuers.json"
    (folder / "keys.json").write_bytes(jwks(k1=KEY))
    issuers.write_text(json.dumps(issuers_file(folder, "read@mine")))
    root, root_text = made("admin")
    await stored(url, root)
    settings: dict[str, Any] = {"anonymous": "ofrep=evaluate@open", "jwt_issuers_file": str(issuers), "ofrep_port": 0}
    async with (
        guarded(url, **settings) as (client, server),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.ofrep_port}", timeout=10) as http,
    ):
        found = Served(client, server, http)
        found.root, found.folder = bearer(root_text), folder
        for flag in (types.Flag(key="color", flag_set="mine"), types.Flag(key="color", flag_set="open")):
            await client.stub.CreateFlag(pb.CreateFlagRequest(flag=flag), metadata=found.root, timeout=5)
        yield found


@pytest.fixture(autouse=True)
async def page(served: Served) -> None:
    """A token of its own for each test."""
    token, text = made("evaluate", "mine", "other")
    store = served.server.replica.store.tokens
    assert store is not None
    await store.write(token.id, tokens.create(token))
    await served.server.replica.access.follower.looked()  # type: ignore[union-attr]
    served.page, served.page_id = bearer(text), token.id


async def test_the_address_in_a_bulk_answer_opens_the_stream_without_any_header(served: Served) -> None:
    async with served.events(await served.url()) as stream:
        await stream.event()
        request = pb.ToggleFlagRequest(flag_key="color", flag_set="mine", enabled=True)
        changed = await served.client.stub.ToggleFlag(request, metadata=served.root, timeout=5)
        assert (await stream.event())["etag"] == f'"{changed.flag.revision}"'


async def test_a_ticket_opens_nothing_else(served: Served) -> None:
    url = await served.url()
    ticket = url.partition("ticket=")[2]
    query, mine = f"?selector=flagSetId%3Dmine&ticket={ticket}", ("flagd-selector", "flagSetId=mine")
    for path in (FLAGS_PATH, f"{FLAGS_PATH}/", f"{FLAGS_PATH}/color"):
        assert (await served.http.post(path + query, json={}, headers=[mine])).status_code == 403
        for header in (("authorization", f"Bearer {ticket}"), ("x-api-key", ticket)):
            assert (await served.http.post(path, json={}, headers=[mine, header])).status_code == 401
    assert await served.status(EVENTS_PATH, mine, ("authorization", f"Bearer {ticket}")) == 401


async def test_a_wrong_ticket_is_refused_and_never_anonymous(served: Served) -> None:
    url = await served.url()
    other = url.replace("mine", "other")
    assert await served.status(url) == 200
    for wrong in (
        other,
        url.replace("mine", "open"),
        url[:-5] + "AAAAA",
        f"{url}A",
        url.partition("ticket=")[0] + "ticket=",
    ):
        assert await served.status(wrong) == 401, wrong
    assert await served.status(f"{url}&ticket=x") == 401
    assert await served.status(url, *served.page) == 401, "two credentials"
    assert await served.status(f"{EVENTS_PATH}?selector=flagSetId%3Dopen") == 200
    assert await served.status(f"{EVENTS_PATH}?selector=flagSetId%3Dmine") == 403


async def test_it_opens_no_stream_after_a_minute(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    url = await served.url()
    served.turn(monkeypatch, VALID_S)
    assert await served.status(url) == 401
    assert await served.status(await served.url()) == 200


async def test_304_is_only_for_clients_whose_address_still_works(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    tickets = served.server.replica.access.authority.tickets  # type: ignore[union-attr]
    at = time.time() // STEP_S * STEP_S
    monkeypatch.setattr(tickets, "_clock", lambda: at)
    first = await served.all()
    etag = first.headers["etag"]
    monkeypatch.setattr(tickets, "_clock", lambda: at + STEP_S - 1)
    again = await served.all(**{"if-none-match": etag})
    assert (again.status_code, again.headers["etag"]) == (304, etag)
    monkeypatch.setattr(tickets, "_clock", lambda: at + STEP_S)
    later = await served.all(**{"if-none-match": etag})
    assert later.status_code == 200
    assert later.json()["eventStreams"] != first.json()["eventStreams"]
    assert later.json()["flags"] == first.json()["flags"]


async def test_an_open_stream_renews_its_ticket_so_that_a_client_can_reconnect(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse_streams, "KEEP_ALIVE_S", 0.05)
    url = await served.url()
    async with served.events(url) as stream:
        first = stream.id
        served.turn(monkeypatch, VALID_S)
        async with asyncio.timeout(5):
            while stream.id.partition("~")[2] == first.partition("~")[2]:
                await stream.block()
    assert await served.status(url) == 401
    assert await served.status(url, ("last-event-id", first)) == 401
    async with served.events(url, Last_Event_ID=stream.id) as again:
        assert again.id.partition("~")[0] == stream.id.partition("~")[0]
    assert await served.status(url, ("last-event-id", stream.id[:-1])) == 401


async def test_the_stream_ends_with_its_caller(served: Served) -> None:
    writer = served.server.replica.access.writer  # type: ignore[union-attr]
    url = await served.url()
    async with served.events(url) as stream:
        began = time.monotonic()
        await writer.revoke(UNCHECKED, served.page_id, None, WaitFor())
        await ended(stream)
    assert time.monotonic() - began < 1
    assert await served.status(url) == 401


async def test_the_stream_ends_when_its_caller_loses_the_flag_set(served: Served) -> None:
    replica = served.server.replica
    writer = replica.access.writer  # type: ignore[union-attr]
    root = replica.access.authority.identify(served.root[0][1].removeprefix("Bearer "))  # type: ignore[union-attr]
    url = await served.url()
    async with served.events(url) as stream:
        await writer.update(root, served.page_id, {"flag_sets": ("other",)}, None, WaitFor())  # type: ignore[arg-type]
        await ended(stream)
    assert await served.status(url) == 403


async def test_a_caller_with_a_jwt_follows_the_events_of_a_replica_that_has_not_seen_its_token(
    served: Served, tmp_path: Path
) -> None:
    headers = bearer(signed(kubernetes_claims(exp=time.time() + 3_600), KEY))
    url = await served.url(headers)
    settings = served.server.settings
    async with (
        guarded(settings.store_url, jwt_issuers_file=settings.jwt_issuers_file, ofrep_port=0) as (_, other),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{other.ofrep_port}", timeout=10) as http,
        http.stream("GET", url) as answer,
    ):
        assert answer.status_code == 200
        issuers = other._issuers
        assert issuers is not None
        assert len(issuers.tokens) == 0
        await until(lambda: len(other.replica.access.authority.sessions) == 1)  # type: ignore[union-attr]
        issuers.deny([f"jwt:{KUBERNETES}|{kubernetes_claims()['sub']}"])
        assert not [each async for each in answer.aiter_text() if "data" in each]
        async with http.stream("GET", url) as refused:
            assert refused.status_code == 401
    changed = tmp_path / "issuers.json"
    changed.write_text(json.dumps(issuers_file(served.folder, "evaluate@mine")))
    async with (
        guarded(settings.store_url, jwt_issuers_file=str(changed), ofrep_port=0) as (_, other),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{other.ofrep_port}", timeout=10) as http,
        http.stream("GET", url) as refused,
    ):
        assert refused.status_code == 401, "by its rules the token may have another role"


async def test_the_longest_subject_of_a_jwt_fits_into_a_ticket(served: Served) -> None:
    claims = kubernetes_claims(sub="system:" + "\u65e5" * 505)
    assert await served.status(await served.url(bearer(signed(claims, KEY)))) == 200


async def test_without_a_credential_the_address_has_no_ticket(served: Served) -> None:
    answer = await served.http.post(FLAGS_PATH, json={}, headers={"flagd-selector": "flagSetId=open"})
    [stream] = answer.json()["eventStreams"]
    assert stream["endpoint"]["requestUri"] == f"{EVENTS_PATH}?selector=flagSetId%3Dopen"


async def test_no_stream_is_named_while_the_key_is_not_known(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served.server.replica.access.authority._view, "ticket_key", b"")  # type: ignore[union-attr]
    assert (await served.all()).json()["eventStreams"] == []
