"""Callers who evaluate at a steady rate, as a process of its own that costs little: its requests are prebuilt.

It reads one line of JSON from its standard input, as `Wanted`, and writes one with what became of the calls.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict, dataclass, field

from benchmarks.http2_load import OK, Load, Request
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from tests.access.callers import Headers

METHOD = "/flagsvc.v1.FlagService/EvaluateFlag"
EXHAUSTED = "8"
DEADLINE_S = 5.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """Calls for one flag, `rate` a second in turns by each caller on each port; without a rate, as many as go."""

    ports: list[int]
    callers: list[Headers]
    """The headers of each."""
    flag: str
    seconds: float
    rate: float = 0.0
    in_flight: int = 0


@dataclass(slots=True)
class Calls:
    """What became of calls. `accepted`: seconds from the first call to each answer; `waits_s`: of accepted calls."""

    offered: int = 0
    refused: int = 0
    failed: int = 0
    accepted: list[float] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def per_second(self, since_s: float) -> float:
        """Return the calls accepted a second after the first ones."""
        return sum(since_s <= at < self.seconds for at in self.accepted) / (self.seconds - since_s)


async def offered(wanted: Wanted) -> Calls:
    """Make calls from a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.offered_calls", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    written, _ = await process.communicate(json.dumps(asdict(wanted)).encode() + b"\n")
    return Calls(**json.loads(written))


def _made(wanted: Wanted) -> Calls:
    message = pb.EvaluateFlagRequest(flag_key=wanted.flag).SerializeToString()
    requests = [Request(METHOD, message, headers) for headers in wanted.callers]
    with Load((port, request) for request in requests for port in wanted.ports) as load:
        if wanted.rate:
            found = load.steady(wanted.rate, wanted.seconds, DEADLINE_S)
        else:
            found = load.full(wanted.in_flight, wanted.seconds, DEADLINE_S)
    codes = found.codes
    failed = codes.total() - codes[OK] - codes[EXHAUSTED]
    return Calls(found.offered, codes[EXHAUSTED], failed, found.answered_s, found.waits_s, found.seconds)


def main() -> None:
    """Read what is wanted, call, and write what was found."""
    print(json.dumps(asdict(_made(Wanted(**json.loads(sys.stdin.readline()))))))


if __name__ == "__main__":
    main()
