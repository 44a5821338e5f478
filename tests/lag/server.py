"""A server that measures how long its event loop is held: python -m tests.lag.server STORE CACHE SOCKET."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import threading
import time
from collections import Counter, deque
from pathlib import Path

import uvloop

from flagsvc import collector
from flagsvc.server import Server
from flagsvc.settings import Settings
from flagsvc.telemetry import configure_logging
from flagsvc.turns import SWITCH_S

TICK_S = 0.0005
SAMPLE_S = 0.0005
SUSPICIOUS_MS = 4.0
"""A hold of this length is explained."""
LONG_COLLECTION_S = 0.002
DEPTH = 6
"""Frames of a stack that are shown."""


class Ticker:
    """The longest time between two ticks of the loop: as another caller sees it, and as CPU time of the loop alone."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.wall_ms = self.cpu_ms = 0.0
        self._where, self._sampler = "", Sampler()
        self._seen = time.perf_counter(), time.thread_time()
        self._tick()

    def taken(self) -> tuple[float, float, str]:
        """Return the longest times since the last call, and what ran during the longest."""
        found = self.wall_ms, self.cpu_ms, self._where
        self.wall_ms = self.cpu_ms = 0.0
        self._where = ""
        return found

    def _tick(self) -> None:
        now = time.perf_counter(), time.thread_time()
        self.wall_ms = max(self.wall_ms, (now[0] - self._seen[0] - TICK_S) * 1000)
        cpu_ms = (now[1] - self._seen[1]) * 1000
        if cpu_ms > self.cpu_ms:
            self.cpu_ms = cpu_ms
            if cpu_ms > SUSPICIOUS_MS:
                self._where = self._sampler.most_since(self._seen[0])
        self._seen = now
        self._loop.call_later(TICK_S, self._tick)


class Sampler:
    """Notes what the event loop's thread runs, and each collection, so that a hold can be explained."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, str]] = deque(maxlen=2_000)
        self._loop_thread, self._collecting_since = threading.get_ident(), 0.0
        gc.callbacks.append(self._note_collection)
        threading.Thread(target=self._run, daemon=True).start()

    def most_since(self, moment: float) -> str:
        """Return what was seen most often since this moment."""
        found = Counter(text for at, text in tuple(self._seen) if at >= moment)
        return found.most_common(1)[0][0] if found else ""

    def _run(self) -> None:
        while True:
            time.sleep(SAMPLE_S)
            # Reading a frame allocates. A collection would then call `_note_collection`, which lets the loop's thread
            # go on, and what is read of its frames is freed: Python 3.11 crashes.
            if was_enabled := gc.isenabled():
                gc.disable()
            frame, names = sys._current_frames().get(self._loop_thread), []
            while frame is not None and len(names) < DEPTH:
                names.append(f"{Path(frame.f_code.co_filename).stem}:{frame.f_lineno} {frame.f_code.co_name}")
                frame = frame.f_back
            del frame
            if was_enabled:
                gc.enable()
            self._seen.append((time.perf_counter(), " < ".join(names)))

    def _note_collection(self, phase: str, info: dict[str, int]) -> None:
        now = time.perf_counter()
        if phase == "start":
            self._collecting_since = now
        elif now - self._collecting_since > LONG_COLLECTION_S:
            text = f"collection of generation {info['generation']}: {(now - self._collecting_since) * 1000:.1f} ms"
            self._seen.extend([(now, text)] * 10)


async def main(store: str, cache: str, control: str) -> None:
    """Serve until the first connection to the control socket ends."""
    settings = Settings(
        store_url=store,
        cache_url=cache,
        host="127.0.0.1",
        port=0,
        sync_port=-1,
        ofrep_port=0,
        management_port=0,
        drain_s=0,
        grace_s=0,
    )
    server, ended = Server(settings), asyncio.Event()
    ticker = Ticker()

    async def controlled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            ready = server.replica.is_ready() and server.replica.follower.loader.is_compiled
            answer = [*ticker.taken(), ready, server.port, server.ofrep_port, server.management_port]
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()
        ended.set()

    async with await asyncio.start_unix_server(controlled, control):
        await server.start()
        await ended.wait()
    await server.stop()


if __name__ == "__main__":
    configure_logging("warning", "json")
    collector.configure()
    sys.setswitchinterval(SWITCH_S)
    uvloop.run(main(*sys.argv[1:]))
