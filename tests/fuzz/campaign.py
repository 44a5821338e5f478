"""Sends calls to one server, several at a time, and judges the answers, the log, the health and the memory."""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.fuzz.calling import FRAMES, Answer, Call, fault, save
from tests.fuzz.connect_calls import OVER_HTTP, ConnectCalls
from tests.fuzz.frame_calls import FrameCalls
from tests.fuzz.grpc_calls import GrpcCalls, learned
from tests.fuzz.http_calls import ROUTES, HttpCalls
from tests.fuzz.odd import KEYS, Odd
from tests.fuzz.target import Target

AT_ONCE = 64
LOOK_EVERY = 250
"""Calls between two looks at the log, the health and the memory."""
START_S, HEALTH_S = 30.0, 5.0
PROBE = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"
MAX_FINDINGS = 20
"""A run ends at so many."""
GROWTH_SHARE, GROWTH_MB = 1.05, 8.0
"""The median memory of a run's last quarter may be so many times that of the quarter before, and this more."""
MIN_SAMPLES = 40
"""Memory is judged from so many looks. A shorter run has not filled its caches yet."""
_CORPUS = 60
_SHARE_OF_UNKNOWN = 0.01
UNKNOWN_METHOD = "unknown methods"


@dataclass
class Result:
    """What a run found."""

    seed: int
    statuses: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    findings: list[str] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    log_lines: int = 0
    seconds: float = 0.0
    worst_health_ms: float = 0.0

    @property
    def calls(self) -> int:
        """Calls so far."""
        return sum(counts.total() for counts in self.statuses.values())


def growth(memory_mb: list[float]) -> tuple[float, float] | None:
    """Return the medians of the memory in the third and in the last quarter of a run; None after a short one."""
    half, rest = len(memory_mb) // 2, len(memory_mb) * 3 // 4
    if len(memory_mb) < MIN_SAMPLES:
        return None
    return statistics.median(memory_mb[half:rest]), statistics.median(memory_mb[rest:])


def grows(memory_mb: list[float]) -> str:
    """Return how memory grew in the later half of a run, if that is more than a server may need."""
    before, after = growth(memory_mb) or (0.0, 0.0)
    return f"memory grows: from {before:.0f} MB to {after:.0f} MB" if after > before * GROWTH_SHARE + GROWTH_MB else ""


class Campaign:
    """One run against one server."""

    def __init__(self, target: Target, seed: int, folder: Path) -> None:
        self._target, self._folder = target, folder
        self.result = Result(seed)
        self._random = Random(seed)
        self._odd = Odd(self._random)
        self._corpus: dict[str, list[bytes]] = defaultdict(list)
        self._shapes: dict[str, set[str]] = defaultdict(set)
        self._recent: deque[Call] = deque(maxlen=LOOK_EVERY + AT_ONCE)
        self._kinds: set[str] = set()
        self._saved: Iterator[Call] = iter(())
        self._begun = 0
        self._over = False

    async def run(self, calls: int, seconds: float) -> Result:
        """Send so many calls, or as many as this time allows, and stop the server."""
        began = time.monotonic()
        address = f"127.0.0.1:{self._target.ports['port']}"
        async with grpc.aio.insecure_channel(address) as channel:
            self._health = health_pb2_grpc.HealthStub(channel)
            await self._health.Check(health_pb2.HealthCheckRequest(), timeout=START_S, wait_for_ready=True)
            methods = await asyncio.to_thread(learned, address)
            self._grpc, self._http = GrpcCalls(address, methods, self._odd), HttpCalls(self._target.ports, self._odd)
            self._connect = ConnectCalls(methods, self._http, self._odd)
            self._frames = FrameCalls(self._target.ports["port"], self._odd)
            self._names = [*methods, *ROUTES, *self._connect.names, FRAMES]
            await self._fill(channel)
            try:
                await asyncio.gather(*(self._work(calls, began + seconds) for _ in range(AT_ONCE)))
                await self._look()
            finally:
                await self._grpc.close()
        if found := grows(self.result.memory_mb):
            self._found(found, list(self._recent))
        self.result.seconds = time.monotonic() - began
        await asyncio.to_thread(self._target.stop)  # what it logs then counts too
        self._judge_log()
        self.result.log_lines = len(self._target.log)
        return self.result

    async def _fill(self, channel: grpc.aio.Channel) -> None:
        """Create a few flags, so that the first calls find some."""
        kinds = (
            {"boolean_value": True},
            {"string_value": "a"},
            {"integer_value": 1},
            {"float_value": 0.5},
            {"object_value": {}},
        )
        for number, key in enumerate(KEYS[::2]):
            variants = {name: types.Value(**kinds[number % len(kinds)]) for name in ("on", "off")}
            rule = '{"if": [{"in": ["@", {"var": "email"}]}, "on", "off"]}' if number % 2 else ""
            flag = types.Flag(key=key, variants=variants, default_variant="on", targeting=rule)
            flag.status = types.FLAG_STATUS_ENABLED
            await pb_grpc.FlagServiceStub(channel).CreateFlag(pb.CreateFlagRequest(flag=flag), timeout=START_S)

    async def again(self, calls: list[Call]) -> Result:
        """Send saved calls."""
        self._saved = iter(calls)
        return await self.run(len(calls), 600)

    async def _work(self, calls: int, until: float) -> None:
        while self._begun < calls and not self._over and time.monotonic() < until:
            self._begun += 1
            if self._begun % LOOK_EVERY == 0:
                await self._look()
            name, call = self._next()
            self._recent.append(call)
            answer = await self._maker_of(name).send(call)
            self._note(name, call, answer)

    def _next(self) -> tuple[str, Call]:
        """Return the next call, with its name in the table."""
        if saved := next(self._saved, None):
            return saved.method, saved
        name = UNKNOWN_METHOD if self._random.random() < _SHARE_OF_UNKNOWN else self._random.choice(self._names)
        return name, self._maker_of(name).make(name, self._corpus[name])

    def _maker_of(self, name: str) -> HttpCalls | ConnectCalls | FrameCalls | GrpcCalls:
        if name == FRAMES:
            return self._frames
        return self._http if name in ROUTES else self._connect if name.endswith(OVER_HTTP) else self._grpc

    def _note(self, name: str, call: Call, answer: Answer) -> None:
        """Count an answer, judge it, and keep a call whose answer is the first of its shape."""
        self.result.statuses[name][answer.status] += 1
        if wrong := fault(call, answer):
            self._found(f"{call.method}: {wrong}", [call])
        if call.parts and answer.shape not in self._shapes[name]:
            self._shapes[name].add(answer.shape)
            self._corpus[name].append(b"".join(call.parts)[:200_000])
            if len(self._corpus[name]) > _CORPUS:
                del self._corpus[name][self._random.randrange(_CORPUS)]

    async def _look(self) -> None:
        """See whether the server lives, answers and has logged no exception, and how much memory it has."""
        self._judge_log()
        began = time.monotonic()
        try:
            await self._health.Check(health_pb2.HealthCheckRequest(), timeout=HEALTH_S)
        except grpc.aio.AioRpcError as error:
            self._over = True
            why = f"health answers {error.code().name}" if self._target.alive else "the server has ended"
            held = next((line for line in reversed(self._target.log) if '"loop_held"' in line), "")
            self._found(f"{why} {held[:2_000]}", list(self._recent))
        self.result.worst_health_ms = max(self.result.worst_health_ms, 1_000 * (time.monotonic() - began))
        probe = Call("/healthz", [PROBE], timeout=HEALTH_S, port="management_port")
        if (status := (await self._http.send(probe)).status) != "200":
            self._found(f"/healthz answers {status}", list(self._recent))
        self.result.memory_mb.append(self._target.resident_mb())

    def _judge_log(self) -> None:
        for line in self._target.tracebacks():
            self._found(f"the log has an exception: {line[:2_000]}", list(self._recent))

    def _found(self, what: str, calls: list[Call]) -> None:
        """Record a finding, the first of its kind only."""
        kind = re.sub(r"\b[0-9a-f]{6,}\b|\d+", "*", what)
        if kind in self._kinds:
            return
        self._kinds.add(kind)
        self.result.findings.append(f"{what}\n  saved in {save(self._folder, what, calls)}")
        self._over = self._over or len(self._kinds) >= MAX_FINDINGS
