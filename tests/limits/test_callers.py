"""Whose rate a call counts against."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import grpc
import httpx
import pytest

from flagsvc.api.common.peers import network_of
from flagsvc.core.access.identity import Identity, Kind
from flagsvc.core.access.roles import Role
from flagsvc.core.access.scopes import EVERY_SET
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.limits.callers import share_of
from flagsvc.limits.table import Table
from tests.access.callers import bearer, made, stored
from tests.replicas import replica, until_serving

TOKEN = Identity(Kind.TOKEN, "abc", "shop", Role.EVALUATE, EVERY_SET)


@pytest.fixture
def table() -> Table:
    return Table("evaluate", 100, time.monotonic)


def test_a_credential_counts_wherever_it_is_used_and_no_address_does(table: Table) -> None:
    share = share_of(table, TOKEN, "ipv4:10.0.0.1:5", str)
    assert share_of(table, TOKEN, "ipv4:10.0.0.2:5", str) is share
    assert share.caller == "token:abc"
    assert share_of(table, replace(TOKEN, id="other"), "ipv4:10.0.0.1:5", str) is not share
    assert share_of(table, replace(TOKEN, kind=Kind.ANONYMOUS), "ipv4:10.0.0.1:5", str).caller == "ipv4:10.0.0.1"


def test_a_rate_of_its_own_is_of_evaluations(table: Table) -> None:
    assert share_of(table, replace(TOKEN, rate=500), "", str).rate == 500
    assert share_of(Table("write", 20, time.monotonic), replace(TOKEN, rate=500), "", str).rate == 20
    assert share_of(table, replace(TOKEN, rate=50), "", str).rate == 50


@pytest.mark.parametrize(
    ("peer", "caller"),
    [
        ("ipv4:10.0.0.1:50000", "ipv4:10.0.0.1"),
        ("ipv6:%5B2001:db8::1%5D:50000", "ipv6:2001:db8::/64"),
        ("ipv6:[2001:db8:0:0:ffff::2]:50000", "ipv6:2001:db8::/64"),
        ("ipv6:%5B2001:db8:0:1::1%5D:50000", "ipv6:2001:db8:0:1::/64"),
        ("unix:", "unix"),
    ],
)
def test_an_address_stands_for_its_network(peer: str, caller: str) -> None:
    assert network_of(peer) == caller


async def test_two_tokens_of_one_address_have_a_rate_each(tmp_path: Path) -> None:
    store_url = f"sqlite:///{tmp_path}/flags.db"
    (one, one_text), (other, other_text) = made("read"), made("read")
    await stored(store_url, one, other)
    settings = {"auth": "required", "rate_limits": "enforce", "rates": "evaluate=1,read=1", "ofrep_port": 0}
    async with replica(store_url=store_url, **settings) as (client, server):
        await until_serving(client)
        limits = server._limiting.limits
        assert limits is not None
        limits.leasing.wants = lambda _share: None  # type: ignore[method-assign]  # nothing is regained
        request = pb.ListFlagsRequest()
        await client.stub.ListFlags(request, metadata=bearer(one_text))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.stub.ListFlags(request, metadata=bearer(one_text))
        assert f"token:{one.id}" in (refused.value.details() or "")
        await client.stub.ListFlags(request, metadata=bearer(other_text))
        url = f"http://127.0.0.1:{server.ofrep_port}/ofrep/v1/evaluate/flags/a"
        async with httpx.AsyncClient() as http:
            answers = [
                await http.post(url, json={}, headers=dict(bearer(text))) for text in (one_text, one_text, other_text)
            ]
        assert [answer.status_code for answer in answers] == [404, 429, 404]
