"""1,000 SyncFlags streams, 100 of which stop reading: the other 900 are unaffected; the 100 get the newest state."""

from __future__ import annotations

import asyncio
import json
import queue
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from flagsvc.api.common.values import to_value
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.conftest import FIRST
from tests.replicas import Client, Process, until_serving, waited_for_a_cpu_s

pytestmark = pytest.mark.xdist_group(FIRST)

SCRIPT = Path(__file__).with_name("sync_readers.py")
FLAGS, READING, PAUSED = 300, (450, 450), 100
BURST, ROUNDS = 60, 2
REACHED_S = 1.0
"""Within this time the last change reaches all streams that read."""
GROWTH_MB = 64
"""The most that the server's memory may grow from 1,000 idle streams on, whatever changes and whoever does not read."""
RULE = {"if": [{"ends_with": [{"var": "email"}, "@flagsvc.example"]}, "on", {"fractional": [["on", 10], ["off", 90]]}]}


class Readers:
    """A process that holds many streams."""

    def __init__(self, address: str, streams: int) -> None:
        self._command = [sys.executable, str(SCRIPT), address, str(streams)]
        self._events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.ended: list[str] = []

    def __enter__(self) -> Self:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(self._command, text=True, **pipes)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join(5)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            pipe.close()

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            event = json.loads(line)
            if event["event"] == "ended":
                self.ended.append(event["status"])
            else:
                self._events.put(event)

    def expect(self, text: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"expect {text}\n")
        self._process.stdin.flush()

    async def event(self, seconds: float) -> dict[str, Any]:
        try:
            return await asyncio.to_thread(self._events.get, timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"not all streams had it after {seconds} s") from None

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)


def rss_mb(server: Process) -> float:
    assert server.process
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError("the server has ended")


def waited_s(server: Process, *readers: Readers) -> float:
    """For how long the server, and the readers that waited longest, could have run and got no CPU."""
    assert server.process
    longest = max(waited_for_a_cpu_s(each._process.pid) or 0.0 for each in readers)
    return longest + (waited_for_a_cpu_s(server.process.pid) or 0.0)


class Memory:
    """The most memory that a server was seen to use."""

    def __init__(self, server: Process) -> None:
        self._server, self.peak = server, 0.0

    async def watch(self) -> None:
        while True:
            self.peak = max(self.peak, rss_mb(self._server))
            await asyncio.sleep(0.02)


async def a_change(client: Client, text: str) -> float:
    """Write this text into a flag; return when the write began."""
    began = time.monotonic()
    flag = types.Flag(key="last", metadata={"step": to_value(text)})
    await client.stub.UpdateFlag(pb.UpdateFlagRequest(flag=flag, update_mask=FieldMask(paths=["metadata"])), timeout=10)
    return began


@pytest.mark.timeout(180)
async def test_a_thousand_streams_of_which_a_hundred_do_not_read(tmp_path: Path) -> None:
    with Process("--store", f"sqlite:///{tmp_path}/flags.db") as server, ExitStack() as stack:
        client = Client(server.address)
        await until_serving(client)
        for number in range(FLAGS):
            await client.create(f"flag-{number}", status=types.FLAG_STATUS_ENABLED, targeting=json.dumps(RULE))
        await client.create("last", status=types.FLAG_STATUS_ENABLED)
        address = f"127.0.0.1:{server.sync_port}"
        reading = [stack.enter_context(Readers(address, streams)) for streams in READING]
        paused = stack.enter_context(Readers(address, PAUSED))
        for readers in (*reading, paused):
            assert (await readers.event(30))["event"] == "open"
            readers.ended.clear()  # a thousand at once may be refused; a provider tries again
        await asyncio.sleep(0.5)
        idle = rss_mb(server)

        paused.pause()
        stack.callback(paused.resume)
        memory = Memory(server)
        watching = asyncio.create_task(memory.watch())
        took = []
        for step in range(ROUNDS):
            for number in range(BURST):
                await client.toggle(f"flag-{number}", enabled=bool(step % 2))
            for readers in reading:
                readers.expect(f"step-{step}")
            waited = waited_s(server, *reading)
            began = await a_change(client, f"step-{step}")
            seen = [await readers.event(20) for readers in reading]
            took.append(max(each["last"] for each in seen) - began - (waited_s(server, *reading) - waited))

        resumed_at = time.monotonic()
        paused.expect(f"step-{ROUNDS - 1}")
        paused.resume()
        late = await paused.event(20)
        await asyncio.sleep(1)
        watching.cancel()
        changes, after = ROUNDS * (BURST + 1), rss_mb(server)
        each = sum(each["messages"] for each in seen) / sum(READING), late["messages"] / PAUSED
        print(  # noqa: T201  read with -rP
            f"the last change of a burst at 900 streams after {min(took):.2f} to {max(took):.2f} s;"
            f" {changes} changes were {each[0]:.1f} messages of {late['bytes'] / 1024:.0f} KiB for each of them"
            f" and {each[1]:.1f} for each paused one; those had the newest {late['last'] - resumed_at:.2f} s after they"
            f" went on; server memory {idle:.0f} MB idle, {memory.peak:.0f} MB at most, {after:.0f} MB after"
        )
        assert max(took) < REACHED_S
        assert memory.peak - idle < GROWTH_MB
        assert [readers.ended for readers in reading] == [[], []]
        # A connection that reads nothing for about 10 s is dropped; its streams get an error and are opened again.
        assert set(paused.ended) <= {"UNAVAILABLE"}
        assert each[1] < each[0], "the paused streams were never held back"
        await client.channel.close()
