"""SIGTERM and Ctrl-C while `flagsvc serve` imports, starts and drains, also as process 1 of a container."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.replicas import FLAGSVC, Client, Process, until, until_serving

ROOT = Path(__file__).parents[2]
UNSHARE = ("unshare", "--pid", "--fork", "--kill-child")


def can_unshare() -> bool:
    """Whether this machine lets the tests make a process 1. It takes Linux, and root or the like."""
    try:
        return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


PLAIN, PROCESS_1 = (str(FLAGSVC),), (*UNSHARE, str(FLAGSVC))
PROGRAMS = {"plain": PLAIN} | ({"process-1": PROCESS_1} if can_unshare() else {})
programs = pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
signals = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)


def started(argument: str, *, plain: tuple[str, ...] = PLAIN) -> pytest.MarkDecorator:
    """Run a test with each program and each signal, as arguments `program` and this one; the last one `long`."""
    return pytest.mark.parametrize(
        ("program", argument),
        [
            pytest.param(
                plain if name == "plain" else program,
                number,
                id=f"{number.name}-{name}",
                marks=pytest.mark.long if (name, number) == ("process-1", signal.SIGINT) else (),
            )
            for name, program in PROGRAMS.items()
            for number in (signal.SIGTERM, signal.SIGINT)
        ],
    )


def pid_of(started: int, program: tuple[str, ...]) -> int | None:
    """The process of flagsvc, which `unshare` starts as its child."""
    if program[:1] != UNSHARE[:1]:
        return started
    children = Path(f"/proc/{started}/task/{started}/children").read_text().split()
    return int(children[0]) if children else None


class Served(Process):
    """A server whose own process is found where `unshare` stands before it."""

    @property
    def pid(self) -> int | None:
        """The process of flagsvc, once there is one."""
        assert self.process
        return pid_of(self.process.pid, self._program)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to flagsvc."""
        assert self.pid
        os.kill(self.pid, number)

    def handles(self, number: signal.Signals) -> bool:
        """Whether the process has a handler for that signal."""
        if self.pid is None:
            return False
        caught = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
        assert caught
        return bool(int(caught[1], 16) >> (number - 1) & 1)

    async def ended(self) -> tuple[int, str]:
        """The exit status and what was written to standard error; fails where it does not end soon."""
        assert self.process
        _, errors = await asyncio.to_thread(self.process.communicate, timeout=10)
        return self.process.returncode, errors


@started("number")
@pytest.mark.parametrize("moment", ["handles SIGTERM", "has loaded grpc"])
async def test_a_signal_before_the_server_has_started_ends_it_at_once(
    tmp_path: Path, program: tuple[str, ...], number: signal.Signals, moment: str
) -> None:
    with Served("--store", f"sqlite:///{tmp_path}/flags.db", program=program, FLAGSVC_DRAIN_S="60") as server:
        await until(lambda: server.handles(signal.SIGTERM))
        if moment == "has loaded grpc":
            await until(lambda: "cygrpc" in Path(f"/proc/{server.pid}/maps").read_text())
        server.send(number)
        assert await server.ended() == (128 + number, "")


@started("first", plain=())  # where the start is not what matters
@signals
async def test_a_second_signal_ends_the_drain_at_once(
    tmp_path: Path, program: tuple[str, ...], first: signal.Signals, number: signal.Signals
) -> None:
    with Served("--store", f"sqlite:///{tmp_path}/flags.db", program=program, FLAGSVC_DRAIN_S="60") as server:
        client = Client(server.address)
        await until_serving(client)
        server.send(first)
        await until_serving(client, serving=False)
        assert await client.serving("liveness"), "the first signal drains"
        server.send(number)
        status, errors = await server.ended()
        assert status == 128 + number
        assert "Traceback" not in errors
        await client.channel.close()


@programs
@signals
async def test_one_signal_stops_with_status_0(tmp_path: Path, program: tuple[str, ...], number: signal.Signals) -> None:
    with Served("--store", f"sqlite:///{tmp_path}/flags.db", program=program, FLAGSVC_DRAIN_S="0") as server:
        client = Client(server.address)
        await until_serving(client)
        server.send(number)
        status, errors = await server.ended()
        assert status == 0
        assert "Traceback" not in errors
        await client.channel.close()


@programs
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 0)])
async def test_a_watch_is_ended_by_sigterm_and_by_ctrl_c(
    tmp_path: Path, program: tuple[str, ...], number: signal.Signals, status: int
) -> None:
    with Served("--store", f"sqlite:///{tmp_path}/flags.db") as server:
        client = Client(server.address)
        await until_serving(client)
        await client.create("a")
        watch = await asyncio.create_subprocess_exec(
            *program, "watch", "--address", server.address, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            assert watch.stderr
            assert await asyncio.wait_for(watch.stderr.readline(), 30) == b"1 flag at revision 1\n"
            pid = pid_of(watch.pid, program)
            assert pid
            os.kill(pid, number)
            _, errors = await asyncio.wait_for(watch.communicate(), 10)
            assert (watch.returncode, errors) == (status, b"")
        finally:
            if watch.returncode is None:
                watch.kill()
                await watch.wait()
        await client.channel.close()


def test_signals_are_handled_before_anything_else_is_imported() -> None:
    script = "import sys, flagsvc.__main__; print(*(name for name in sys.modules if 'flagsvc' in name or name == 're'))"
    imported = subprocess.run(
        [sys.executable, "-S", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert sorted(imported.stdout.split()) == ["flagsvc", "flagsvc.__main__", "flagsvc.signals"]
