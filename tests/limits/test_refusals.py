"""What a caller over its rate gets, over each protocol, and who is not limited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.rpc import error_details_pb2, status_pb2

from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as v1
from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2_grpc as v1_grpc
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.limits.grpc_calls import RateLimiting
from flagsvc.limits.leasing import Leasing
from tests.ofrep.asking import FLAGS_PATH, Asked, asking
from tests.providers.cases import COLORS, SWITCH, flag

RATES = "evaluate=10,read=10,write=40,admin=1"
FLAGS = [flag("color", COLORS, "blue"), *(flag(f"switch-{n:02}", SWITCH, "on") for n in range(20))]


async def never(_: Leasing) -> None:
    """Settle no share: what a test takes is gone for good."""
    await asyncio.Event().wait()


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Asked]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Leasing, "run", never)
        store = tmp_path_factory.mktemp("limits") / "flags.db"
        async with asking(store, FLAGS, rate_limits="enforce", rates=RATES, cors_origins="https://app.example") as a:
            yield a


@pytest.fixture
def asked(served: Asked) -> Asked:
    """A server on which nobody has used anything yet."""
    limits = served.server._limiting.limits
    assert limits is not None
    for table in limits.tables.values():
        table._shares.clear()
        table.by_address.clear()
    return served


def left(asked: Asked, kind: str) -> float:
    """Return what this machine's address has left of one class."""
    limits = asked.server._limiting.limits
    assert limits is not None
    return limits.tables[kind].of_caller("ipv4:127.0.0.1").left


def use_up(asked: Asked, kind: str = "evaluate") -> None:
    limits = asked.server._limiting.limits
    assert limits is not None
    limits.tables[kind].of_caller("ipv4:127.0.0.1").left = 0.0


def details(error: grpc.aio.AioRpcError) -> list[Any]:
    """Return the details of a status: ErrorInfo, RetryInfo, QuotaFailure."""
    found = status_pb2.Status.FromString(dict(error.trailing_metadata() or ())["grpc-status-details-bin"])  # type: ignore[arg-type]
    kinds = (error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo, error_details_pb2.QuotaFailure)
    messages = [kind() for kind in kinds]
    for packed, message in zip(found.details, messages, strict=True):
        assert packed.Unpack(message)
    return messages


async def test_a_call_within_the_rate_is_counted_and_one_beyond_it_is_refused(asked: Asked) -> None:
    for _ in range(10):
        await asked.grpc.evaluate("color")
    assert left(asked, "evaluate") == 0
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asked.grpc.evaluate("color")
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "127.0.0.1" not in (refused.value.details() or "")
    info, retry, quota = details(refused.value)
    assert (info.reason, dict(info.metadata)) == ("RATE_LIMITED", {"class": "evaluate", "rate": "10"})
    assert 0 < retry.retry_delay.ToTimedelta().total_seconds() <= 1
    assert [(each.subject, each.description) for each in quota.violations] == [
        ("this address", "evaluate: 10 a second")
    ]
    assert await asked.grpc.serving(), "health checks are never limited"


async def test_a_call_over_the_rate_is_refused_before_its_message_is_read(asked: Asked) -> None:
    use_up(asked)
    call = asked.grpc.channel.stream_unary("/flagsvc.v1.FlagService/EvaluateFlag")(timeout=5)
    assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, "it waits for no message, and takes no slot"
    assert left(asked, "evaluate") == 0
    call.cancel()


async def test_the_classes_are_apart(asked: Asked) -> None:
    use_up(asked)
    await asked.grpc.stub.GetFlag(pb.GetFlagRequest(flag_key="color"))
    assert left(asked, "read") == 9
    await asked.grpc.toggle("color", True)
    assert left(asked, "write") == 39
    await asked.grpc.stub.GetStatus(pb.GetStatusRequest())
    with pytest.raises(grpc.aio.AioRpcError):
        await asked.grpc.stub.GetStatus(pb.GetStatusRequest())


async def test_a_call_for_many_flags_counts_for_several(asked: Asked) -> None:
    await asked.grpc.stub.BatchEvaluateFlags(pb.BatchEvaluateFlagsRequest(flag_keys=["color"] * 30))
    assert left(asked, "evaluate") == 10 - 4
    await asked.grpc.stub.BatchEvaluateFlags(pb.BatchEvaluateFlagsRequest())
    assert left(asked, "evaluate") == 6 - 3, "21 flags in the set"
    flagd = v1_grpc.ServiceStub(asked.grpc.channel)
    await flagd.ResolveAll(v1.ResolveAllRequest())
    assert left(asked, "evaluate") == 0
    asked.server._limiting.limits.tables["evaluate"].of_caller("ipv4:127.0.0.1").left = 1.0
    await flagd.ResolveAll(v1.ResolveAllRequest())
    assert left(asked, "evaluate") == -2, "one more passes, and is paid back before the next"


async def test_explanations_and_streams_count_for_ten(asked: Asked) -> None:
    await asked.grpc.evaluate("color", explain=True)
    assert left(asked, "evaluate") == 0
    stream = asked.grpc.stub.WatchFlags(pb.WatchFlagsRequest())
    await stream.read()
    assert left(asked, "read") == 0
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asked.grpc.stub.WatchFlags(pb.WatchFlagsRequest()).read()
    assert details(refused.value)[0].reason == "RATE_LIMITED"
    stream.cancel()


async def test_ofrep_answers_429_with_retry_after_and_cors(asked: Asked) -> None:
    assert (await asked.one("color")).status_code == 200
    assert left(asked, "evaluate") == 9
    assert (await asked.all()).status_code == 200
    assert left(asked, "evaluate") == 9 - 3
    use_up(asked)
    for response in (await asked.one("color", origin="https://app.example"), await asked.all()):
        assert (response.status_code, response.headers["retry-after"]) == (429, "1")
        assert "over its rate of 10 evaluate calls" in response.json()["errorDetails"]
    assert (await asked.one("color", origin="https://app.example")).headers["access-control-allow-origin"]
    preflight = {"origin": "https://app.example", "access-control-request-method": "POST"}
    answer = await asked.http.options(f"{FLAGS_PATH}/color", headers=preflight)
    assert answer.status_code == 200, "a preflight is no call"


async def test_connect_answers_429_with_retry_after(asked: Asked) -> None:
    use_up(asked)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{asked.server.port}") as http:
        url = "/flagd.evaluation.v1.Service/ResolveString"
        answer = await http.post(url, json={"flagKey": "color"}, headers={"origin": "https://app.example"})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert answer.json()["code"] == "resource_exhausted"
    assert "retry-after" in answer.headers["access-control-expose-headers"].lower()


async def test_another_caller_is_not_touched(asked: Asked) -> None:
    use_up(asked)
    transport = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
    async with httpx.AsyncClient(base_url=asked.http.base_url, transport=transport) as other:
        assert (await other.post(f"{FLAGS_PATH}/color", json={})).status_code == 200
    assert (await asked.one("color")).status_code == 429


async def test_a_wrong_selector_is_refused_in_its_own_words(asked: Asked) -> None:
    assert "selector" in (await asked.all(flagd_selector="nope=1")).json()["errorDetails"]


async def test_what_is_refused_is_counted(asked: Asked) -> None:
    samples = {(s.name, s.labels.get("class")): s.value for s in asked.server._limiting.samples()}
    before = samples["flagsvc_rate_limited_total", "evaluate"]
    use_up(asked)
    await asked.one("color")
    samples = {(s.name, s.labels.get("class")): s.value for s in asked.server._limiting.samples()}
    assert samples["flagsvc_rate_limited_total", "evaluate"] == before + 1
    assert samples["flagsvc_rate_limit_callers", "evaluate"] >= 1


async def test_off_puts_nothing_before_a_call(tmp_path: Path) -> None:
    async with asking(tmp_path / "flags.db", FLAGS[:1]) as asked:
        assert asked.server._limiting.limits is None
        inside = asked.server.services.wrappers(asked.server.listeners["grpc"])
        assert not any(isinstance(each, RateLimiting) for each in inside)
        for _ in range(30):
            await asked.grpc.evaluate("color")
