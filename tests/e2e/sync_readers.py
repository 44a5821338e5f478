"""A process that holds SyncFlags streams, driven by lines: `python tests/e2e/sync_readers.py ADDRESS STREAMS`.

It says `open` when every stream has its first message. For each line `expect TEXT` it says, when the newest message
of every stream has TEXT in it, `seen` with the monotonic times of the first and the last stream that got it, how many
messages came so far, and the size of one. When a stream ends, it says `ended STATUS` and opens the stream again, as a
provider does.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import grpc

STREAMS_PER_CONNECTION = 20
METHOD = "/flagd.sync.v1.FlagSyncService/SyncFlags"


def say(**event: Any) -> None:
    print(json.dumps(event), flush=True)  # noqa: T201  this is how it answers


class Readers:
    """All streams of this process."""

    def __init__(self, address: str, streams: int) -> None:
        self._address, self._streams = address, streams
        self._newest: dict[int, bytes] = {}
        self._expected, self._seen = b"", dict[int, float]()
        self._messages = 0
        self._all_open, self._all_seen = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        connections = -(-self._streams // STREAMS_PER_CONNECTION)
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        channels = [grpc.aio.insecure_channel(self._address, options=options) for _ in range(connections)]
        tasks = [
            asyncio.create_task(self._read(number, channels[number % connections])) for number in range(self._streams)
        ]
        await self._all_open.wait()
        say(event="open")
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            await self._expect(line.removeprefix("expect ").strip().encode())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in channels:
            await channel.close()

    async def _read(self, number: int, channel: grpc.aio.Channel) -> None:
        while True:
            try:
                async for message in channel.unary_stream(METHOD)(b"", wait_for_ready=True):
                    self._newest[number] = message
                    self._messages += 1
                    if len(self._newest) == self._streams:
                        self._all_open.set()
                    self._poll(number)
                say(event="ended", status="OK")
            except grpc.aio.AioRpcError as error:
                say(event="ended", status=error.code().name)
            await asyncio.sleep(0.2)

    def _poll(self, number: int) -> None:
        if self._expected and number not in self._seen and self._expected in self._newest[number]:
            self._seen[number] = time.monotonic()
            if len(self._seen) == self._streams:
                self._all_seen.set()

    async def _expect(self, text: bytes) -> None:
        self._expected, self._seen = text, {}
        self._all_seen.clear()
        for number in self._newest:
            self._poll(number)
        await self._all_seen.wait()
        times = sorted(self._seen.values())
        self._expected = b""
        say(event="seen", first=times[0], last=times[-1], messages=self._messages, bytes=len(self._newest[0]))


if __name__ == "__main__":
    asyncio.run(Readers(sys.argv[1], int(sys.argv[2])).run())
