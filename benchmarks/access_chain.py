"""What authentication and rate limits add to one call, in process: the interceptors of a server, without a transport.

The same unary handler, which does nothing, is called through the interceptors of servers with and without them, in
turns. Each server is in a process of its own, as in real use: Python adapts the code that they share to what it
does. Times are CPU time of that process.

Run as a program, with the name of a server, it measures one turn for each line that it reads.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import structlog
import uvloop

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.server import Server
from tests.access.callers import Headers, bearer, made, stored
from tests.access.issuing import AUDIENCE, KUBERNETES, ec_key, jwks, kubernetes_claims, signed
from tests.replicas import replica

METHOD = "/flagsvc.v1.FlagService/EvaluateFlag"
OFF, TOKEN, JWT = "authentication off", "token", "JWT that was verified before"
LIMITS, BOTH, JWT_BOTH = "rate limits, by address", "token and rate limits", "JWT and rate limits"
SERVERS = (OFF, TOKEN, JWT, LIMITS, BOTH, JWT_BOTH)
CALLS = 10_000
"""In one turn."""
_RATES = "evaluate=1000000"
Chain = Callable[[Any, Any], Awaitable[Any]]


class Call:
    """What gRPC gives a handler as the context."""

    def __init__(self, headers: Headers) -> None:
        self._metadata = (("user-agent", "grpc-python-asyncio/1.85.1"), *headers)
        self._request = pb.EvaluateFlagRequest(flag_key="flag")

    def invocation_metadata(self) -> Headers:
        """Return the headers."""
        return self._metadata

    def auth_context(self) -> dict[str, list[bytes]]:
        """Return that there is no client certificate."""
        return {}

    def peer(self) -> str:
        """Return an address."""
        return "ipv4:127.0.0.1:50000"

    def time_remaining(self) -> float:
        """Return a time."""
        return 1.0

    async def read(self) -> Any:
        """Return the message, which is there."""
        return self._request


def chain_of(server: Server) -> Chain:
    """Return the handler of an evaluation with all that a server puts around it; the evaluation itself does nothing."""
    answer = pb.EvaluateFlagResponse().SerializeToString()

    async def nothing(_request: Any, _context: Any) -> bytes:
        return answer

    handler = grpc.unary_unary_rpc_method_handler(nothing, pb.EvaluateFlagRequest.FromString, None)

    for wrapper in reversed(server.services.wrappers(server.listeners["grpc"])):
        handler = wrapper.wrap(METHOD, handler)
    return handler.stream_unary  # type: ignore[no-any-return]


@asynccontextmanager
async def _serving(name: str) -> AsyncIterator[tuple[Chain, Call]]:
    """Start a server; yield its chain and a call whose caller it knows."""
    with tempfile.TemporaryDirectory() as text_folder:
        folder, key, (token, text) = Path(text_folder), ec_key(), made("evaluate", "default")
        url, settings = f"sqlite:///{folder}/flags.db", dict[str, str]()
        if name in {LIMITS, BOTH, JWT_BOTH}:
            settings |= {"rate_limits": "enforce", "rates": _RATES}
        if name not in {OFF, LIMITS}:
            settings |= {"auth": "required"}
            await stored(url, token)
        if name in {JWT, JWT_BOTH}:
            settings |= {"jwt_issuers_file": str(_issuers_file(folder, key))}
            text = signed(kubernetes_claims(), key)
        async with replica(store_url=url, **settings) as (_, server):
            chain, call = chain_of(server), Call(bearer(text))
            await asyncio.sleep(1)  # until the tokens and keys are read
            await _turn(chain, call)  # warms up, and verifies the JWT
            yield chain, call


def _issuers_file(folder: Path, key: Any) -> Path:
    (folder / "keys.json").write_bytes(jwks(k1=key))
    issuer: dict[str, Any] = {"issuer": KUBERNETES, "audience": AUDIENCE, "jwks": f"file:{folder}/keys.json"}
    rule = {"claim": "sub", "prefix": "system:serviceaccount:"}
    issuer |= {"rules": [{"when": [rule], "grant": "evaluate@default"}]}
    path = folder / "issuers.json"
    path.write_text(json.dumps({"issuers": [issuer]}))
    return path


async def _turn(chain: Chain, call: Call) -> float:
    began = time.process_time()
    for _ in range(CALLS):
        await chain(None, call)
    return (time.process_time() - began) / CALLS * 1e6


def measure(rounds: int) -> dict[str, list[float]]:
    """Return microseconds a call by server, one for each round."""
    found: dict[str, list[float]] = {name: [] for name in SERVERS}
    with ExitStack() as stack:
        processes = {name: stack.enter_context(_process(name)) for name in SERVERS}
        for number in range(rounds):
            for name in SERVERS if number % 2 else SERVERS[::-1]:
                found[name].append(_asked(processes[name]))
    return found


@contextmanager
def _process(name: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.access_chain", name]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        _asked(process)
        yield process
    finally:
        process.communicate()


def _asked(process: subprocess.Popen[str]) -> float:
    """Ask a process for one turn, and return microseconds a call."""
    assert process.stdin
    assert process.stdout
    process.stdin.write("turn\n")
    process.stdin.flush()
    return float(process.stdout.readline())


async def _serve(name: str) -> None:
    async with _serving(name) as (chain, call):
        while await asyncio.to_thread(sys.stdin.readline):
            print(await _turn(chain, call), flush=True)


def main() -> None:
    """Measure one turn for each line."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(sys.argv[1]))


if __name__ == "__main__":
    main()
