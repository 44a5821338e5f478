"""What authentication and rate limits add to one call, in process: the interceptors of a server, without a transport.

The same unary handler, which does nothing, is called through the interceptors of servers with and without them, in
turns. Times are CPU time of this process.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.server import Server
from tests.access.callers import Headers, bearer, made, stored
from tests.access.issuing import AUDIENCE, KUBERNETES, ec_key, jwks, kubernetes_claims, signed
from tests.replicas import replica

METHOD = "/flagsvc.v1.FlagService/EvaluateFlag"
OFF, TOKEN, JWT = "authentication off", "token", "JWT that was verified before"
LIMITS, BOTH, JWT_BOTH = "rate limits, by address", "token and rate limits", "JWT and rate limits"
CALLS = 4_000
"""In one turn of one chain."""
LEASE_S = 0.06
"""Between two turns, so that shares are leased again."""
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


async def chain_of(server: Server) -> Chain:
    """Return the handler of an evaluation with all interceptors of a server; the evaluation itself does nothing."""
    answer = pb.EvaluateFlagResponse().SerializeToString()

    async def nothing(_request: Any, _context: Any) -> bytes:
        return answer

    handler = grpc.unary_unary_rpc_method_handler(nothing, pb.EvaluateFlagRequest.FromString, None)

    async def innermost(_details: Any) -> Any:
        return handler

    continuation: Any = innermost
    for interceptor in reversed(server.services.interceptors(server.listeners["grpc"])):
        continuation = _around(interceptor, continuation)
    details = type("Details", (), {"method": METHOD, "invocation_metadata": ()})()
    found = await continuation(details)
    return found.stream_unary  # type: ignore[no-any-return]


def _around(interceptor: grpc.aio.ServerInterceptor, continuation: Any) -> Any:
    async def intercepted(details: Any) -> Any:
        return await interceptor.intercept_service(continuation, details)

    return intercepted


async def measure(rounds: int) -> dict[str, list[float]]:
    """Return microseconds a call by chain, one for each round."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        key, rule = ec_key(), {"claim": "sub", "prefix": "system:serviceaccount:"}
        (folder / "keys.json").write_bytes(jwks(k1=key))
        issuer = {"issuer": KUBERNETES, "audience": AUDIENCE, "jwks": f"file:{folder}/keys.json"}
        issuer |= {"rules": [{"when": [rule], "grant": "evaluate@default"}]}
        (folder / "issuers.json").write_text(json.dumps({"issuers": [issuer]}))
        guarded = {"auth": "required", "jwt_issuers_file": f"{folder}/issuers.json"}
        limited = {"rate_limits": "enforce", "rates": _RATES}
        settings: dict[str, dict[str, Any]] = {"off": {}, "on": guarded, "limits": limited, "both": guarded | limited}
        token, text = made("evaluate", "default")
        chains: dict[str, Chain] = {}
        for name, chosen in settings.items():
            url = f"sqlite:///{folder}/{name}.db"
            if "auth" in chosen:
                await stored(url, token)
            _, server = await stack.enter_async_context(replica(store_url=url, **chosen))
            chains[name] = await chain_of(server)
        fsv, jwt = Call(bearer(text)), Call(bearer(signed(kubernetes_claims(), key)))
        turns = {
            OFF: (chains["off"], fsv),
            TOKEN: (chains["on"], fsv),
            JWT: (chains["on"], jwt),
            LIMITS: (chains["limits"], fsv),
            BOTH: (chains["both"], fsv),
            JWT_BOTH: (chains["both"], jwt),
        }
        await asyncio.sleep(1)  # until the tokens and keys are read
        found: dict[str, list[float]] = {name: [] for name in turns}
        for number in range(rounds + 1):
            order = list(turns) if number % 2 else list(turns)[::-1]
            for name in order:
                us = await _turn(*turns[name])
                if number:  # the first round warms up, and verifies the JWT
                    found[name].append(us)
                await asyncio.sleep(LEASE_S)
        return found


async def _turn(chain: Chain, call: Call) -> float:
    began = time.process_time()
    for _ in range(CALLS):
        await chain(None, call)
    return (time.process_time() - began) / CALLS * 1e6
