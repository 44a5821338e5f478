"""Certificates that change under load: no call may fail, and files that are not good change nothing.

One server with TLS is called over new connections, over lasting ones, and by streams that stay open. Meanwhile its
files are replaced as people and Kubernetes do: at once, key and certificate one after the other, by a link that is
moved, and by a pair that does not fit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.guarded import machine
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from tests.certificates import Authority, Signed, put
from tests.replicas import Process
from tests.tls.asking import OFREP, create_a, evaluate, exchange, served_certificate

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
WORKERS, STREAMS = 4, 50
"""Of each kind of call, and open all the time."""
SERVED_S = 20.0
_METRICS = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@dataclass(slots=True)
class Step:
    """One replacement of the files, and what callers noticed. `until_served_s`: from the last file to the new one."""

    name: str
    until_served_s: float
    calls: int
    failed: int
    reloads: int
    refused: int
    """What the metric of files that cannot be served says at the end of the step."""


class Load:
    """Calls of every kind, and streams, until it is closed."""

    def __init__(self, server: Process, authority: Authority) -> None:
        self._server, self._credentials = server, authority.credentials()
        self._context = authority.trusting(alpn=["http/1.1"])
        self.calls, self.failed = Counter[str](), Counter[str]()
        self.ended_streams = 0
        self._lasting = grpc.aio.secure_channel(server.address, self._credentials)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin."""
        await create_a(self._lasting)
        request = pb.EvaluateFlagRequest(flag_key="a")
        stub = pb_grpc.FlagServiceStub(self._lasting)

        async def lasting() -> bool:
            return (await stub.EvaluateFlag(request, timeout=10)).evaluation.enabled

        async def ofrep() -> bool:
            return b'"value":true' in await exchange(self._server.ofrep_port, self._context, OFREP)

        kinds: dict[str, Callable[[], Awaitable[bool]]] = {
            "gRPC, a new connection each": lambda: evaluate(self._server.port, self._credentials),
            "sync port, a new connection each": lambda: evaluate(self._server.sync_port, self._credentials),
            "OFREP, a new connection each": ofrep,
            "gRPC, one lasting connection": lasting,
        }
        for name, call in kinds.items():
            self._tasks += [asyncio.create_task(self._go_on(name, call)) for _ in range(WORKERS)]
        self._tasks += [asyncio.create_task(self._follow(stub)) for _ in range(STREAMS)]

    async def close(self) -> None:
        """End."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._lasting.close()

    async def _go_on(self, name: str, call: Callable[[], Awaitable[bool]]) -> None:
        while True:
            try:
                is_right = await call()
            except (grpc.aio.AioRpcError, OSError, TimeoutError) as error:
                is_right = False
                self.failed[f"{name}: {type(error).__name__}"] += 1
            else:
                self.failed[f"{name}: another answer"] += not is_right
            self.calls[name] += 1
            await asyncio.sleep(0.01)

    async def _follow(self, stub: pb_grpc.FlagServiceAsyncStub) -> None:
        call = stub.WatchFlags(pb.WatchFlagsRequest())
        try:
            while await call.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError:
            pass
        self.ended_streams += 1


class Bench:
    """A server whose files are `tls.crt` and `tls.key`, both links into the folder behind the link `..data`."""

    def __init__(self, server: Process, folder: Path, load: Load, authority: Authority) -> None:
        self._server, self._folder, self._load, self._authority = server, folder, load, authority
        self._version = 1
        self.steps: list[Step] = []

    @property
    def _data(self) -> Path:
        return self._folder / "..data"

    async def at_once(self) -> Signed:
        """Replace both files, each whole; return what is in them."""
        new = self._authority.sign()

        async def replace() -> None:
            new.put(self._data)

        await self._step("both files at once", new, replace)
        return new

    async def one_after_the_other(self) -> None:
        """Replace the key, and a moment later the certificate."""
        new = self._authority.sign()

        async def replace() -> None:
            put(self._data / "tls.key", new.key_pem)
            await asyncio.sleep(0.5)
            put(self._data / "tls.crt", new.pem)

        await self._step("key, 0.5 s later the certificate", new, replace)

    async def by_link(self) -> None:
        """Move the link to a folder with other files, as Kubernetes does."""
        new = self._authority.sign()

        async def replace() -> None:
            self._version += 1
            folder = self._folder / str(self._version)
            folder.mkdir()
            new.put(folder)
            link = self._folder / "..data_tmp"
            link.symlink_to(folder.name)
            link.replace(self._data)

        await self._step("a link that is moved", new, replace)

    async def broken(self, served: Signed) -> None:
        """Put a certificate of another key beside the key for three seconds."""

        async def replace() -> None:
            put(self._data / "tls.crt", self._authority.sign().pem)
            await asyncio.sleep(3)

        await self._step("a certificate of another key, for 3 s", served, replace)

    async def _step(self, name: str, wanted: Signed, replace: Callable[[], Awaitable[None]]) -> None:
        calls, failed = self._load.calls.total(), self._load.failed.total()
        await replace()
        replaced_at = time.monotonic()
        for port in (self._server.port, self._server.sync_port, self._server.ofrep_port):
            while await served_certificate(port, self._authority) != wanted.certificate:
                if time.monotonic() - replaced_at > SERVED_S:
                    raise SystemExit(f"{name}: the wanted certificate is not served after {SERVED_S:g} s")
                await asyncio.sleep(0.02)
        until_served_s = time.monotonic() - replaced_at
        page = (await exchange(self._server.management_port, None, _METRICS)).decode()
        samples = dict(line.split(" ", 1) for line in page.splitlines() if line.startswith("flagsvc_tls_"))
        await asyncio.sleep(0.5)
        self.steps.append(
            Step(
                name,
                until_served_s,
                self._load.calls.total() - calls,
                self._load.failed.total() - failed,
                int(float(samples["flagsvc_tls_reloads_total"])),
                int(float(samples["flagsvc_tls_files_refused"])),
            )
        )


async def measure(rounds: int, console: Console) -> dict[str, Any]:
    """Return the steps, the calls and what the server logged."""
    authority = Authority()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "1").mkdir()
        (folder / "..data").symlink_to("1")
        authority.sign().put(folder / "1")
        for name in ("tls.crt", "tls.key"):
            (folder / name).symlink_to(f"..data/{name}")
        options = ("--tls-cert", f"{folder}/tls.crt", "--tls-key", f"{folder}/tls.key", "--log-format", "json")
        server = stack.enter_context(Process("--store", f"sqlite:///{folder}/flags.db", *options))
        load = Load(server, authority)
        try:
            await load.start()
            bench = Bench(server, folder, load, authority)
            await asyncio.sleep(1)
            for number in range(rounds):
                console.print(f"round {number + 1} of {rounds}")
                await bench.one_after_the_other()
                good = await bench.at_once()
                await bench.broken(good)
                await bench.by_link()
            ended = load.ended_streams
        finally:
            await load.close()
        assert server.process is not None
        server.terminate()
        _, log = await asyncio.to_thread(server.process.communicate)
    events = Counter(json.loads(line)["event"] for line in log.splitlines() if '"tls_' in line)
    return {
        "steps": [asdict(step) for step in bench.steps],
        "calls": dict(load.calls),
        "failed": {name: count for name, count in load.failed.items() if count},
        "streams": STREAMS,
        "streams ended": ended,
        "log": dict(events),
    }


def _table(found: dict[str, Any]) -> Table:
    table = Table(title="certificates changed under load")
    table.add_column("how the files were replaced")
    for head in ("times", "until the right one is served, worst", "calls", "failed", "refused (metric)"):
        table.add_column(head, justify="right")
    for name in dict.fromkeys(step["name"] for step in found["steps"]):
        steps = [step for step in found["steps"] if step["name"] == name]
        worst = max(step["until_served_s"] for step in steps)
        counts = (sum(step["calls"] for step in steps), sum(step["failed"] for step in steps))
        refused = "/".join(sorted({str(step["refused"]) for step in steps}))
        table.add_row(name, str(len(steps)), f"{worst:.2f} s", *(f"{count:,}" for count in counts), refused)
    return table


def main() -> None:
    """Run, print what happened, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of all replacements [5]")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    os.environ["GRPC_VERBOSITY"] = "NONE"
    console = Console(width=140, stderr=args.json)
    console.print(machine())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(measure(args.rounds, console))
    record = {"command": f"python -m benchmarks.certificates --rounds {args.rounds}", "machine": machine(), **found}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "certificates.json").write_text(json.dumps(record, indent=1) + "\n")
    if args.json:
        print(json.dumps(record, indent=1))
        return
    console.print(_table(found))
    console.print("calls: " + ", ".join(f"{name}: {count:,}" for name, count in found["calls"].items()))
    console.print(f"failed calls: {found['failed'] or 'none'}; {found['streams ended']} of {STREAMS} streams ended")
    console.print("log: " + ", ".join(f"{event}: {count}" for event, count in found["log"].items()))
    console.print(f"written: {(OUT / 'certificates.json').relative_to(Path.cwd())}")


if __name__ == "__main__":
    main()
