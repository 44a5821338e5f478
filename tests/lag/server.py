"""A server that measures how long its event loop is held: python -m tests.lag.server STORE SOCKET."""

from __future__ import annotations

import asyncio
import json
import sys
import time

import uvloop

from flagsvc import collector
from flagsvc.server import Server
from flagsvc.settings import Settings
from flagsvc.telemetry import configure_logging
from flagsvc.turns import SWITCH_S

TICK_S = 0.0005


class Ticker:
    """The longest time between two ticks of the loop: as another caller sees it, and as CPU time of the loop alone."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.wall_ms = self.cpu_ms = 0.0
        self._seen = time.perf_counter(), time.thread_time()
        self._tick()

    def taken(self) -> tuple[float, float]:
        """Return the longest times since the last call."""
        found = self.wall_ms, self.cpu_ms
        self.wall_ms = self.cpu_ms = 0.0
        return found

    def _tick(self) -> None:
        now = time.perf_counter(), time.thread_time()
        self.wall_ms = max(self.wall_ms, (now[0] - self._seen[0] - TICK_S) * 1000)
        self.cpu_ms = max(self.cpu_ms, (now[1] - self._seen[1]) * 1000)
        self._seen = now
        self._loop.call_later(TICK_S, self._tick)


async def main(store: str, control: str) -> None:
    """Serve until the first connection to the control socket ends."""
    settings = Settings(
        store_url=store, host="127.0.0.1", port=0, sync_port=-1, ofrep_port=0, management_port=-1, drain_s=0, grace_s=0
    )
    server, ended = Server(settings), asyncio.Event()
    ticker = Ticker()

    async def controlled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            ready = server.replica.is_ready() and server.replica.follower.loader.is_compiled
            answer = [*ticker.taken(), ready, server.port, server.ofrep_port]
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()
        ended.set()

    await asyncio.start_unix_server(controlled, control)
    await server.start()
    await ended.wait()
    await server.stop()


if __name__ == "__main__":
    configure_logging("warning", "json")
    collector.configure()
    sys.setswitchinterval(SWITCH_S)
    uvloop.run(main(*sys.argv[1:]))
