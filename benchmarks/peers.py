"""flagsvc beside flagd on one machine, with h2load: `python -m benchmarks.peers [--flagd PATH]`.

The servers serve one file of flags, run at once and take turns in every round. Each answer is checked once before.
Needs h2load (package nghttp2-client) on PATH, and flagd on PATH or by --flagd; without flagd there is nothing beside.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import struct_pb2
from rich.console import Console
from rich.table import Table

from benchmarks.guarded import machine
from benchmarks.load import cpu_s
from benchmarks.peers_picture import draw
from benchmarks.tiers import process
from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as v1
from flagsvc.tokens_file.entries import line_of
from tests.access.callers import made
from tests.replicas import Process
from tests.servers import free_port

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
FLAGS = 100
SERVICE = "/flagd.evaluation.v1.Service/"
RULES: dict[str, Any] = {
    "static": {},
    "targeted": {"if": [{"and": [{"==": [{"var": "plan"}, "pro"]}, {">=": [{"var": "age"}, 18]}]}, "on", "off"]},
    "fractional": {"fractional": [["on", 50], ["off", 50]]},
}
SHAPES = ((1, 1), (1, 64), (8, 8))
"""Connections, and streams on each."""
ALONE = "native transport alone"
PLAIN, GUARDED, REMEMBERED = "flagsvc", "flagsvc, token and limits", "flagsvc, remembered answers"
BASE = {"FLAGSVC_ANSWER_CACHE_BYTES": "0", "FLAGSVC_HTTP_ON_GRPC_PORT": "false", "FLAGSVC_LOG_LEVEL": "error"}
LIMITS = {"FLAGSVC_AUTH": "required", "FLAGSVC_RATE_LIMITS": "enforce", "FLAGSVC_RATES": "evaluate=1000000"}
Figures = dict[str, dict[str, list[tuple[float, float]]]]
"""By load and server, for each round: calls per second, and calls per CPU-second."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A running server. `headers`: of every call. `methods`: what it answers; empty: everything."""

    name: str
    port: int
    pid: int
    headers: tuple[tuple[str, str], ...] = ()
    methods: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked, and by how many streams."""

    name: str
    method: str
    message: bytes
    connections: int
    streams: int

    def __str__(self) -> str:
        return f"{self.name}, {self.connections} x {self.streams}"


def flags() -> dict[str, Any]:
    """Return a file of flags as flagd reads it: one of each kind by its name, and as many others as are left."""
    base = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "on"}
    others = {f"flag-{number:02}": rule for number, rule in zip(range(FLAGS - len(RULES)), cycle(RULES.values()))}
    return {"flags": {name: base | {"targeting": rule} for name, rule in (RULES | others).items()}}


def loads() -> Iterator[Load]:
    """Yield every load."""
    context = struct_pb2.Struct()
    context.update({"targetingKey": "user-1", "plan": "pro", "age": 33})
    for connections, streams in SHAPES:
        for name in RULES:
            request = v1.ResolveBooleanRequest(flag_key=name, context=context)
            yield Load(name, "ResolveBoolean", request.SerializeToString(), connections, streams)
    yield Load("all 100", "ResolveAll", v1.ResolveAllRequest(context=context).SerializeToString(), 1, 64)


@contextmanager
def flagd(binary: str, path: Path) -> Iterator[Peer]:
    """Run flagd on ports of its own."""
    port, management, sync, ofrep = (free_port() for _ in range(4))
    command = [binary, "start", "-f", f"file:{path}", "-p", str(port), "-m", str(management), "-g", str(sync)]
    process = subprocess.Popen([*command, "-r", str(ofrep)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        _until_ready(f"http://127.0.0.1:{management}/readyz")
        yield Peer("flagd", port, process.pid)
    finally:
        process.terminate()
        process.wait()


@contextmanager
def flagsvc(name: str, path: Path, headers: tuple[tuple[str, str], ...] = (), **settings: str) -> Iterator[Peer]:
    """Run flagsvc on the same file."""
    with Process("--store", f"file:{path}", **(BASE | settings)) as process:
        _until_ready(f"http://127.0.0.1:{process.management_port}/readyz")
        assert process.process is not None
        yield Peer(name, process.port, process.process.pid, headers)


@contextmanager
def front_alone(split: str) -> Iterator[Peer]:
    """Run the native transport with prebuilt answers. `split`: the variant that flagd gives of the fractional flag."""
    port, method = free_port(), "ResolveBoolean"
    command = [sys.executable, "-m", "benchmarks.front_echo", str(port), SERVICE + method, split]
    with process(command, dict(os.environ)) as pid:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=30)
        yield Peer(ALONE, port, pid, methods=(method,))


def _until_ready(url: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def check(peer: Peer, load: Load) -> Any:
    """Return the answer of one call, without what differs between servers by right."""
    answers = {"ResolveBoolean": v1.ResolveBooleanResponse, "ResolveAll": v1.ResolveAllResponse}
    with grpc.insecure_channel(f"127.0.0.1:{peer.port}") as channel:
        call = channel.unary_unary(SERVICE + load.method, None, answers[load.method].FromString)
        answer = call(load.message, metadata=peer.headers, timeout=10)
    if load.method == "ResolveAll":
        return {key: (flag.variant, flag.bool_value, flag.reason) for key, flag in answer.flags.items()}
    return answer.variant, answer.value, answer.reason


def measured(h2load: str, peer: Peer, load: Load, seconds: float, folder: Path) -> tuple[float, float]:
    """Run h2load; return calls per second, and per second of the server's CPU."""
    body = folder / "request.bin"
    body.write_bytes(b"\0" + struct.pack(">I", len(load.message)) + load.message)
    headers = {"content-type": "application/grpc", "te": "trailers", **dict(peer.headers)}
    command = [
        h2load,
        "-t",
        "1",
        "-c",
        str(load.connections),
        "-m",
        str(load.streams),
        "-D",
        f"{int(seconds * 1000)}ms",
        "-d",
        str(body),
    ]
    command += [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
    before = cpu_s(peer.pid)
    url = f"http://127.0.0.1:{peer.port}{SERVICE}{load.method}"
    found = subprocess.run([*command, url], capture_output=True, text=True, check=True, timeout=60).stdout
    done = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", found)
    assert done is not None, found
    assert done.groups()[1:] == ("0", "0", "0"), found
    return int(done[1]) / seconds, int(done[1]) / (cpu_s(peer.pid) - before)


def main() -> int:
    """Measure, print the ratios to flagd, write the figures and the picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--flagd", default=shutil.which("flagd"), help="flagd's program [the one on PATH]")
    parser.add_argument("--also", action="append", default=[], metavar="NAME:SETTING=X", help="one more flagsvc")
    parser.add_argument("--alone", action="store_true", help="beside them, the native transport with prebuilt answers")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a measurement [2]")
    parser.add_argument("--rounds", type=int, default=4, help="rounds; the table shows medians [4]")
    args = parser.parse_args()
    h2load = shutil.which("h2load")
    if h2load is None or args.flagd is None:
        print("needs h2load on PATH, and flagd on PATH or by --flagd", file=sys.stderr)
        return 2
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        path = folder / "flags.json"
        path.write_text(json.dumps(flags()))
        all_peers = [stack.enter_context(each) for each in _servers(args.flagd, path, args.also)]
        if args.alone:
            split = next(check(all_peers[0], load)[0] for load in loads() if load.name == "fractional")
            all_peers.append(stack.enter_context(front_alone(split)))
        for load in loads():
            peers = [peer for peer in all_peers if load.method in (peer.methods or (load.method,))]
            answers = {peer.name: check(peer, load) for peer in peers}
            assert all(answer == answers["flagd"] for answer in answers.values()), answers
            for number in range(args.rounds):
                for peer in peers[number % len(peers) :] + peers[: number % len(peers)]:
                    found = measured(h2load, peer, load, args.seconds, folder)
                    figures.setdefault(str(load), {}).setdefault(peer.name, []).append(found)
    ratios = {load: {name: _ratios(row["flagd"], row[name]) for name in row} for load, row in figures.items()}
    names = list(next(iter(ratios.values())))
    table = Table("calls a second | per CPU-second", *names, title=f"median, and ratio to flagd; {machine()}")
    for load, row in ratios.items():
        table.add_row(load, *(_cell(figures[load][name], row[name]) if name in row else "-" for name in names))
    Console(width=160).print(table)
    also = "".join(f" --also {each}" for each in args.also) + " --alone" * args.alone
    command = f"python -m benchmarks.peers --seconds {args.seconds:g} --rounds {args.rounds}{also}"
    record = {"command": command, "machine": machine(), "ratios": ratios, "figures": figures}
    (OUT / "peers.json").write_text(json.dumps(record, indent=1) + "\n")
    draw(ratios, OUT / "peers.png")
    return 0


def _servers(binary: str, path: Path, also: list[str]) -> Iterator[Any]:
    token, text = made("evaluate")
    tokens = path.with_name("tokens.yaml")
    tokens.write_text(line_of(token))
    yield flagd(binary, path)
    yield flagsvc(PLAIN, path)
    bearer = (("authorization", f"Bearer {text}"),)
    yield flagsvc(GUARDED, path, bearer, FLAGSVC_TOKENS_FILE=str(tokens), **LIMITS)
    yield flagsvc(REMEMBERED, path, FLAGSVC_ANSWER_CACHE_BYTES="33554432")
    for each in also:
        name, _, settings = each.partition(":")
        yield flagsvc(f"flagsvc, {name}", path, **dict(pair.split("=", 1) for pair in settings.split(",")))


def _ratios(flagd_rounds: list[tuple[float, float]], rounds: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the medians of the rounds' ratios to flagd: per second, and per CPU-second."""
    pairs = list(zip(flagd_rounds, rounds, strict=True))
    return tuple(statistics.median(own[of] / base[of] for base, own in pairs) for of in (0, 1))  # type: ignore[return-value]


def _cell(rounds: list[tuple[float, float]], ratio: tuple[float, float]) -> str:
    per_s, per_cpu = (statistics.median(each[of] for each in rounds) for of in (0, 1))
    return f"{per_s:,.0f} ({ratio[0]:.2f}) | {per_cpu:,.0f} ({ratio[1]:.2f})"


if __name__ == "__main__":
    raise SystemExit(main())
