"""Callers with tokens over the native transport: the thread lets in whom the event loop has recognized, and no more."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

import grpc
import pytest

from flagsvc.access.authority import Authority
from flagsvc.access.token_view import TokenView
from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as v1
from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2_grpc as v1_grpc
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import token_service_pb2 as tokens
from flagsvc.generated.flagsvc.v1 import token_service_pb2_grpc as tokens_grpc
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.limits.share import BURST_S
from flagsvc.ports import StoredTokens
from flagsvc.server import Server
from tests.access.callers import Headers, bearer, made, stored
from tests.replicas import Client, replica, until_serving

RATE = 50
RULE = '{"if":[{"==":[{"var":"plan"},"gold"]},"on","off"]}'
UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
EXHAUSTED, OK = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OK
EVALUATE = pb.EvaluateFlagRequest(flag_key="a")


class Served:
    """A server over the native transport that asks for tokens, and its callers."""

    def __init__(self, client: Client, server: Server) -> None:
        self.client, self.server = client, server
        self.admin: Headers = ()
        self.mine: Headers = ()
        self.trusted: Headers = ()

    async def code(self, headers: Headers, request: pb.EvaluateFlagRequest = EVALUATE) -> grpc.StatusCode:
        try:
            await self.client.stub.EvaluateFlag(request, metadata=headers, timeout=5)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return OK

    @property
    def direct(self) -> int:
        """How many evaluations the thread has answered."""
        return sum(stats.near for stats in self.server.replica.reader.other_stats)

    async def new(self, **fields: object) -> tuple[str, Headers]:
        """Make a token that may evaluate; return its id and a caller's headers with it."""
        token = tokens.Token(name="ci", role=tokens.ROLE_EVALUATE, flag_sets=["default"], **fields)  # type: ignore[arg-type]
        stub = tokens_grpc.TokenServiceStub(self.client.channel)
        answer = await stub.CreateToken(tokens.CreateTokenRequest(token=token), metadata=self.admin, timeout=5)
        return answer.token.id, bearer(answer.secret)


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    url = f"sqlite:///{tmp_path_factory.mktemp('callers')}/flags.db"
    admin, mine = made("admin"), made("evaluate", "mine")
    await stored(url, admin[0], mine[0])
    limits = {"rate_limits": "enforce", "rates": f"evaluate={RATE},read=1000,write=1000,admin=1000"}
    options = {"auth": "required", "context_from_headers": "x-plan=plan", "max_streams_per_peer": 2, **limits}
    async with replica(store_url=url, cache_url="none", transport="native", **options) as (client, server):
        await until_serving(client)
        found = Served(client, server)
        found.admin, found.mine = bearer(admin[1]), bearer(mine[1])
        for key, fields in (("a", {}), ("ruled", {"targeting": RULE})):
            flag = types.Flag(key=key, status=types.FLAG_STATUS_ENABLED, **fields)  # type: ignore[arg-type]
            await client.stub.CreateFlag(pb.CreateFlagRequest(flag=flag), metadata=found.admin, timeout=5)
        yield found


async def test_the_thread_answers_a_caller_whom_the_loop_has_recognized(served: Served) -> None:
    _, headers = await served.new()
    assert await served.code(headers) is OK  # the loop recognizes it
    before = served.direct
    assert [await served.code(headers) for _ in range(5)] == [OK] * 5
    assert served.direct >= before + 4, "one may have met the tokens as they were saved to have been used"


async def test_who_has_no_right_is_refused_by_the_same_rules(served: Served) -> None:
    for headers in ((), bearer("fs_wrong"), (*served.mine, *served.admin)):
        assert await served.code(headers) is UNAUTHENTICATED
    for _ in range(2):  # a caller for another set, whom the loop has recognized by the second time
        assert await served.code(served.mine) is DENIED
        assert await served.code(served.mine, pb.EvaluateFlagRequest(flag_key="a", flag_set="mine")) is OK
    explaining = pb.EvaluateFlagRequest(flag_key="a", explain=True)
    assert await served.code((await served.new())[1], explaining) is DENIED


async def test_a_revoked_token_is_refused_at_the_next_call(served: Served) -> None:
    token_id, headers = await served.new()
    assert [await served.code(headers) for _ in range(3)] == [OK] * 3
    stub = tokens_grpc.TokenServiceStub(served.client.channel)
    await stub.RevokeToken(tokens.RevokeTokenRequest(id=token_id), metadata=served.admin, timeout=5)
    assert [await served.code(headers) for _ in range(3)] == [UNAUTHENTICATED] * 3


async def test_headers_set_fields_for_those_alone_who_are_trusted_with_it(served: Served) -> None:
    stub = v1_grpc.ServiceStub(served.client.channel)
    _, plain = await served.new()
    _, trusted = await served.new(context_headers=True)
    before, values = served.direct, []
    for headers in (plain, trusted) * 3:
        request = v1.ResolveBooleanRequest(flag_key="ruled")
        values.append((await stub.ResolveBoolean(request, metadata=(*headers, ("x-plan", "gold")), timeout=5)).value)
    assert values == [False, True] * 3
    assert served.direct > before


async def test_a_caller_over_its_rate_is_refused_and_no_other(served: Served) -> None:
    _, greedy = await served.new()
    _, modest = await served.new()
    assert await served.code(modest) is OK
    before, began = served.direct, time.monotonic()
    codes = [await served.code(greedy) for _ in range(int(4 * BURST_S * RATE))]
    granted, elapsed_s = codes.count(OK), time.monotonic() - began
    assert granted <= RATE * (BURST_S + elapsed_s) + 1
    assert granted >= RATE
    assert codes.count(EXHAUSTED) == len(codes) - granted
    assert served.direct > before, "a share that is not low needs no event loop"
    assert await served.code(modest) is OK


async def test_a_token_with_a_rate_of_its_own_has_that(served: Served) -> None:
    _, slow = await served.new(rate=5)
    codes = [await served.code(slow) for _ in range(40)]
    assert codes.count(OK) < RATE / 2


def test_a_second_thread_finds_only_who_was_recognized_since_rights_changed_last() -> None:
    """What it kept by itself could be older than a revocation that came in between."""
    token, text = made("evaluate")
    view = TokenView()
    view.hold(StoredTokens(1, [token]), time.monotonic())
    authority = Authority(view, 5.0)
    assert authority.recognized(text) is None
    identity = authority.identify(text)
    assert identity is not None
    assert authority.recognized(text) is identity
    steps: list[Callable[[], object]] = [view.forget_recognized, view.take_used]
    for step in steps:
        authority.identify(text)
        step()
        assert authority.recognized(text) is None
        assert not view.recognized, "it keeps nothing by itself"


async def test_the_address_of_a_caller_who_may_not_write_is_in_the_audit(served: Served) -> None:
    """Writes reach the event loop with the caller's address. Behind the front it would be the unix socket's."""
    seen: list[str] = []
    recorder = served.server._audit.recorder
    assert recorder is not None
    note = recorder._attempts.note
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder._attempts, "note", lambda peer: seen.append(peer) or note(peer))
        with pytest.raises(grpc.aio.AioRpcError):
            await served.client.stub.ToggleFlag(pb.ToggleFlagRequest(flag_key="a"), timeout=5)
    assert [peer.rpartition(":")[0] for peer in seen] == ["ipv4:127.0.0.1"]


async def test_each_connection_has_its_own_part_of_the_streams(served: Served) -> None:
    """Addresses are not known behind the front, so a limit for one address holds for one connection."""
    second = Client(served.client.target)
    try:
        held = []
        for client in (served.client, second):
            for _ in range(2):
                watch = client.stub.WatchFlags(pb.WatchFlagsRequest(), metadata=served.admin)
                assert (await watch.read()).HasField("snapshot")
                held.append(watch)
        third = second.stub.WatchFlags(pb.WatchFlagsRequest(), metadata=served.admin)
        assert await third.code() is EXHAUSTED
        for watch in held:
            watch.cancel()
    finally:
        await second.channel.close()
