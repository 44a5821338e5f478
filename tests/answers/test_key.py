"""Each part of the key under which an answer is remembered is needed: without it, somebody gets another's answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from flagsvc.answers.answers import Answers
from flagsvc.api.common.bulk import Asked, BulkCall
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.access.callers import Headers, bearer, guarded, made, stored
from tests.access.issuing import AUDIENCE, KUBERNETES, ec_key, jwks, kubernetes_claims, signed
from tests.answers.asking import TIER, Site, selecting

KEY = ec_key()
GOLD, PLAIN = [("x-tier", "gold")], [("x-tier", "plain")]
ASKED_OFTEN = 3
"""The second time an answer is remembered, the third time it is given from memory."""


def issuers(folder: Path) -> dict[str, Any]:
    rules = [{"when": [{"claim": "sub", "prefix": "system:"}], "grant": "read@*"}]
    entry = {"issuer": KUBERNETES, "audience": AUDIENCE, "jwks": f"file:{folder}/keys.json", "rules": rules}
    return {"issuers": [{**entry, "context": {"tier": "tier"}}]}


def pod(tier: str) -> Headers:
    return bearer(signed(kubernetes_claims(tier=tier), KEY))


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Site, Headers]]:
    """A site whose ports have different default sets, and the headers of a gateway that sets context fields."""
    folder = tmp_path_factory.mktemp("key")
    url = f"sqlite:///{folder}/flags.db"
    (folder / "keys.json").write_bytes(jwks(k1=KEY))
    (folder / "issuers.json").write_text(json.dumps(issuers(folder)))
    (gateway, text), (admin, admin_text) = made("evaluate"), made("admin")
    await stored(url, replace(gateway, context_headers=True), admin)
    settings = {
        "jwt_issuers_file": str(folder / "issuers.json"),
        "context_from_headers": "x-tier=tier",
        "anonymous": "ofrep=public@*;grpc=evaluate@*;sync=evaluate@*",
        "default_flag_set": "grpc=default;sync=other;ofrep=default",
    }
    async with (
        guarded(url, **settings, ofrep_port=0, sync_port=0) as (client, server),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.ofrep_port}", timeout=10) as http,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.sync_port}") as sync,
    ):
        site, root = Site(client, sync, http, server), bearer(admin_text)
        await site.create("tier", headers=root, targeting=TIER, exposure=types.EXPOSURE_PUBLIC)
        await site.create("internal", headers=root)
        await site.create("elsewhere", "other", headers=root)
        yield site, bearer(text)


async def by_method(site: Site, _: Headers) -> list[object]:
    selected = selecting("default")
    first = await site.all(headers=selected)
    await site.all(headers=selected, service="schema.v1.Service")  # the same request, and an answer without metadata
    return [set(first.flags["tier"].metadata.fields)]


async def by_set(site: Site, _: Headers) -> list[object]:
    return [set(await site.values()), set(await site.values(channel=site.sync))]


async def by_selector(site: Site, _: Headers) -> list[object]:
    answers = [await site.all(headers=headers) for headers in ((), selecting("default"))]
    return [set(answer.flags["tier"].metadata.fields) for answer in answers]


async def by_context(site: Site, _: Headers) -> list[object]:
    return [(await site.values({"tier": tier}))["tier"] for tier in ("gold", "plain")]


async def by_header(site: Site, gateway: Headers) -> list[object]:
    return [(await site.values(headers=[*gateway, *header]))["tier"] for header in (GOLD, PLAIN)]


async def by_claim(site: Site, _: Headers) -> list[object]:
    return [(await site.values(headers=pod(tier)))["tier"] for tier in ("gold", "plain")]


async def by_scope(site: Site, gateway: Headers) -> list[object]:
    return [set(await site.page(headers=headers)) for headers in (gateway, ())]


Ask = Callable[[Site, Headers], Awaitable[list[object]]]
CASES: list[tuple[str, object, Ask, list[object]]] = [
    ("method", "", by_method, [{"flagSetId"}]),
    ("flag_set", "default", by_set, [{"tier", "internal"}, {"elsewhere"}]),
    ("selector", "", by_selector, [set(), {"flagSetId"}]),
    ("request", b"", by_context, [True, False]),
    ("added", "", by_header, [True, False]),
    ("added", "", by_claim, [True, False]),
    ("only_public", False, by_scope, [{"tier", "internal"}, {"tier"}]),
]


def test_there_is_a_case_for_each_part() -> None:
    assert {part for part, *_ in CASES} == set(Asked._fields)


@pytest.mark.parametrize(("part", "constant", "ask", "right"), CASES, ids=[ask.__name__ for _, _, ask, _ in CASES])
async def test_without_a_part_the_answer_is_anothers(  # noqa: PLR0917  a row of the table
    served: tuple[Site, Headers],
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    constant: object,
    ask: Ask,
    right: list[object],
) -> None:
    site, _ = served
    before = site.hits
    assert [await ask(*served) for _ in range(ASKED_OFTEN)] == [right] * ASKED_OFTEN
    assert site.hits >= before + 2, "both answers came from memory in the end"
    parts_of = Answers.parts

    async def without(answers: Answers, call: BulkCall) -> list[bytes]:
        return await parts_of(answers, replace(call, asked=call.asked._replace(**{part: constant})))

    monkeypatch.setattr(Answers, "parts", without)
    wrong = [await ask(*served) for _ in range(ASKED_OFTEN)]
    monkeypatch.undo()
    site.server._answers._answers.clear()
    assert right not in wrong[1:]
