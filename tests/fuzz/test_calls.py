"""A short run of the fuzzer of calls, and whether it notices what it looks for. `make fuzz` has the long run."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from random import Random

import grpc
import pytest

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from tests.fuzz.calling import FRAMES, Answer, Call, fault, load
from tests.fuzz.campaign import UNKNOWN_METHOD, Campaign, grows
from tests.fuzz.http_calls import ROUTES
from tests.fuzz.messages import Messages
from tests.fuzz.odd import Odd
from tests.fuzz.target import target
from tests.replicas import replica

CALLS, SECONDS, SEED = 1_500, 40.0, 7
WRITES = 60
BROKEN = """
from flagsvc.cli.main import main
from flagsvc.serving.reader import Reader
async def evaluate(*_, **__):
    {}
Reader.evaluate = evaluate
Reader.evaluate_at_once = lambda *_, **__: None  # so that `evaluate` is asked
raise SystemExit(main())
"""
"""A program whose evaluations fail in some way."""


async def test_random_calls_find_nothing(tmp_path: Path) -> None:
    with target(cache=False) as server:
        result = await Campaign(server, SEED, tmp_path).run(CALLS, SECONDS)
    assert result.findings == []
    assert result.calls == CALLS
    statuses = result.statuses
    assert {
        *ROUTES,
        FRAMES,
        UNKNOWN_METHOD,
        "/flagsvc.v1.FlagService/Resync",
        "/grpc.health.v1.Health/List",
        "/flagsvc.v1.FlagService/SetBucketing over HTTP",
        "/schema.v1.Service/ResolveBoolean over HTTP",
    } <= statuses.keys()
    total = sum(statuses.values(), Counter())
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "200", "400", "404"} <= total.keys()


async def test_valid_writes_are_among_the_random_ones(tmp_path: Path) -> None:
    """One after the other and without haste: the same calls have the same answers on any machine."""
    messages, codes = Messages(Odd(Random(SEED))), Counter[grpc.StatusCode]()
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db") as (client, _):
        create = client.channel.unary_unary("/flagsvc.v1.FlagService/CreateFlag")
        for _ in range(WRITES):
            call = create(messages.of(pb.CreateFlagRequest.DESCRIPTOR), timeout=60, wait_for_ready=True)
            codes[await call.code()] += 1
    assert codes[grpc.StatusCode.OK] > 0
    assert codes[grpc.StatusCode.INVALID_ARGUMENT] > 0


async def test_a_handler_that_fails_is_found_and_its_call_saved(tmp_path: Path) -> None:
    with target(cache=False, program=(sys.executable, "-c", BROKEN.format("raise RuntimeError('broken')"))) as server:
        result = await Campaign(server, SEED, tmp_path).run(500, SECONDS)
    found = "\n".join(result.findings)
    assert "the status is INTERNAL: b'an internal error occurred" in found
    assert "the log has an exception" in found
    [saved] = load(tmp_path / "0.json")
    assert saved.parts


async def test_a_server_that_ends_is_found(tmp_path: Path) -> None:
    with target(cache=False, program=(sys.executable, "-c", BROKEN.format("import os; os._exit(3)"))) as server:
        result = await Campaign(server, SEED, tmp_path).run(CALLS, SECONDS)
    assert "the server has ended" in result.findings[0]
    assert result.calls < CALLS


@pytest.mark.parametrize(
    ("method", "port", "status", "text", "is_fault"),
    [
        ("/a.B/C", "port", "INVALID_ARGUMENT", "flag_key is 'x'; it must be another", False),
        ("/a.B/C", "port", "UNKNOWN", "Unexpected <class 'ValueError'>: 1", True),
        ("/a.B/C", "port", "INTERNAL", "an internal error occurred", True),
        ("/a.B/C", "port", "UNKNOWN", "General error: The rule chose", True),
        ("/flagd.evaluation.v1.Service/ResolveInt", "port", "UNKNOWN", "General error: The rule chose", False),
        ("/a.B/C", "port", "UNAVAILABLE", "cannot reach 10.0.0.1:6379", True),
        ("/a.B/C", "port", "UNAVAILABLE", "cannot open /tmp/x/flags.db", True),
        ("/a.B/C", "port", "NOT_FOUND", "<flagsvc.core.model.Flag object at 0x7f90f5603c20>", True),
        (FRAMES, FRAMES, "REFUSED_BY_GRPC", "grpc-message Failed parsing HTTP/2 (have 0x1000007e)", False),
        (FRAMES, FRAMES, "UNKNOWN", "grpc-message Unexpected <class 'ValueError'>", True),
        ("/schema.v1.Service/ResolveInt over HTTP", "front_port", "UNKNOWN", '"message":"General error: a', False),
        ("/flagsvc.v1.FlagService/GetFlag over HTTP", "front_port", "INTERNAL", '{"code":"internal"}', True),
        ("ofrep bulk", "ofrep_port", "500", "Internal Server Error", True),
        ("ofrep bulk", "ofrep_port", "500", '{"errorDetails":"the answer would be over 1 bytes: split"}', False),
        ("ofrep bulk", "ofrep_port", "400", 'Traceback (most recent call last):\n  File "x"', True),
    ],
)
def test_an_answer_is_judged(method: str, port: str, status: str, text: str, is_fault: bool) -> None:
    assert bool(fault(Call(method, [], port=port), Answer(status, text.encode()))) is is_fault


def test_memory_that_grows_is_found_and_a_cache_that_fills_is_not() -> None:
    assert grows([60.0 + number for number in range(200)])
    assert not grows([*(60.0 + number for number in range(50)), *[110.0] * 150])
