"""A thousand local clients of one server: the time from a toggle until every client answers with the new value.

Run as a program, it is one process of clients; lines on its standard input say which value to wait for.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import grpc
from flagsvc_client import AsyncFlagClient, ClientEvent
from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc

from benchmarks.client_cost import SWITCH_KEY, Figure

CLIENTS, PROCESSES = 1_000, 2
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)
"""With it each channel has its own connection; by default the channels of a process share one."""
BUDGET_MS = 500.0
CONNECT_TIMEOUT_S = 60


def propagation(target: str, log: Callable[[str], None], toggles: int = 10) -> list[Figure]:
    """Milliseconds from the start of a toggle call until the last client answers with the new value, per toggle."""
    with ExitStack() as stack:
        channel = stack.enter_context(grpc.insecure_channel(target))
        toggle = pb_grpc.FlagServiceStub(channel).ToggleFlag
        log(f"starting {CLIENTS:,} local clients in {PROCESSES} processes, each with its own connection")
        fleets = [stack.enter_context(_fleet(target, CLIENTS // PROCESSES)) for _ in range(PROCESSES)]
        for fleet in fleets:
            assert _read_line(fleet) == "ready"
        first, last, called = [], [], []
        for number in range(toggles):
            log(f"toggle {number + 1} of {toggles}")
            wanted = number % 2 == 1
            for fleet in fleets:
                _write_line(fleet, "on" if wanted else "off")
            for fleet in fleets:
                assert _read_line(fleet) == "waiting"
            started = time.monotonic()
            toggle(pb.ToggleFlagRequest(flag_key=SWITCH_KEY, enabled=wanted), timeout=10)
            called.append((time.monotonic() - started) * 1e3)
            moments = [tuple(map(float, _read_line(fleet).split())) for fleet in fleets]
            first.append((min(early for early, _ in moments) - started) * 1e3)
            last.append((max(late for _, late in moments) - started) * 1e3)
    return [
        Figure("toggle's call itself", "ms", called),
        Figure(f"toggle to the first of {CLIENTS:,} clients", "ms", first),
        Figure(f"toggle to all {CLIENTS:,} clients", "ms", last, BUDGET_MS),
        Figure("slowest toggle to all", "ms", [max(last)], BUDGET_MS),
    ]


@contextmanager
def _fleet(target: str, clients: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.client_fleet", target, str(clients)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.terminate()


def _write_line(fleet: subprocess.Popen[str], line: str) -> None:
    assert fleet.stdin
    fleet.stdin.write(line + "\n")
    fleet.stdin.flush()


def _read_line(fleet: subprocess.Popen[str]) -> str:
    assert fleet.stdout
    line = fleet.stdout.readline().strip()
    assert line, "a process of clients ended without a response"
    return line


class Fleet:
    """The clients of one process; records when each first answers with the expected value."""

    def __init__(self, target: str, clients: int) -> None:
        self._changed = [asyncio.Event() for _ in range(clients)]
        self._clients = [
            AsyncFlagClient(target, local=True, options=OWN_CONNECTION, on_event=self._waker(changed))
            for changed in self._changed
        ]

    @staticmethod
    def _waker(changed: asyncio.Event) -> Callable[[ClientEvent], None]:
        def wake(event: ClientEvent) -> None:
            if event.kind == "changed":
                changed.set()

        return wake

    async def serve(self) -> None:
        """Process the lines of standard input until it ends."""
        ready = await asyncio.gather(*(client.wait_ready(CONNECT_TIMEOUT_S) for client in self._clients))
        assert all(ready), f"{ready.count(False)} clients are not ready after {CONNECT_TIMEOUT_S} s"
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            wanted = line.strip() == "on"
            pairs = zip(self._clients, self._changed, strict=True)
            waits = [asyncio.create_task(self._until(client, changed, wanted)) for client, changed in pairs]
            await asyncio.sleep(0.2)
            print("waiting", flush=True)
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                moments = await asyncio.gather(*waits)
            print(min(moments), max(moments), flush=True)

    @staticmethod
    async def _until(client: AsyncFlagClient, changed: asyncio.Event, wanted: bool) -> float:
        while await client.is_enabled(SWITCH_KEY, default=not wanted) is not wanted:
            changed.clear()
            await changed.wait()
        return time.monotonic()


async def main() -> None:
    """Run one process of clients; arguments: TARGET NUMBER."""
    await Fleet(sys.argv[1], int(sys.argv[2])).serve()


if __name__ == "__main__":
    asyncio.run(main())
