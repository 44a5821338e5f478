"""A full day of a flag, played in seconds: a plan, a rollout, a pause, rollbacks, and the history of it all.

`python -m tests.cli.day` writes the sheets again.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from structlog.testing import capture_logs

from flagsvc.server import Server
from tests.cli.sheets import FOLDER, WIDTHS
from tests.command_line import Terminal, run_here
from tests.replicas import replica, until, until_serving

SHEETS = ("day", "day-moments")


class Clock:
    """The one clock of the day: of the server, its store and the command line."""

    def __init__(self) -> None:
        self.at = datetime(2026, 11, 30, 10, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at

    def seconds(self) -> float:
        """Return seconds since 1970."""
        return self.at.timestamp()

    def datetime(self) -> type[datetime]:
        """Return a datetime whose now is this clock's."""
        clock = self

        class Now(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
                return clock.at.astimezone(tz)

        return Now


@contextlib.contextmanager
def clock_everywhere(clock: Clock) -> Iterator[None]:
    """Let whatever reads a time that this test shows read this clock."""
    now = clock.datetime()
    own = SimpleNamespace(time=clock.seconds, time_ns=lambda: round(clock.seconds() * 1_000) * 1_000_000)
    with contextlib.ExitStack() as stack:
        for name in ("api.flag_service.authors", "api.schedule_service.messages", "schedules.planner"):
            stack.enter_context(patch(f"flagsvc.{name}.datetime", now))
        for name in ("adapters.sqlite_definitions", "cli.times", "cli.rollout", "cli.rollout_text"):
            stack.enter_context(patch(f"flagsvc.{name}.time", own))
        ids = iter(("launch000000", "finish000000"))
        stack.enter_context(patch("flagsvc.api.schedule_service.messages.new_id", ids.__next__))
        yield


@contextlib.asynccontextmanager
async def serving(folder: Path, clock: Clock) -> AsyncIterator[Server]:
    """A server that goes by the clock."""
    with clock_everywhere(clock), capture_logs():
        async with replica(store_url=f"sqlite:///{folder}/flags.db") as (client, server):
            await until_serving(client)
            await until(lambda: not server.replica.revision_sweep._is_first)
            parts: Any = server.replica
            parts.store.schedules._clock = clock
            parts.past._clock = parts.reader._clock = parts.rollout_steps._clock = clock.seconds
            services: Any = server.services
            services._rollout_service._clock = clock.seconds
            yield server


class Day:
    """Plays commands at their times, as several people."""

    def __init__(self, server: Server, clock: Clock) -> None:
        self._server, self._clock = server, clock
        self._address = f"127.0.0.1:{server.port}"

    def to(self, moment: str) -> None:
        """Go to a time of this day, or of another one."""
        day = "" if "T" in moment else "2026-12-01T"
        self._clock.at = datetime.fromisoformat(f"{day}{moment}:00+00:00")

    async def run(self, who: str, command: str) -> None:
        """Run a command as somebody."""
        words = shlex.split(command)
        done = await asyncio.to_thread(run_here, *words, USER=who, FLAGSVC_ADDRESS=self._address)
        assert done.returncode == 0, f"{command}: {done.stderr}"

    async def until_executed(self, count: int) -> None:
        """Wait until so many schedules are executed."""
        executor: Any = self._server.replica.executor
        executor.wake()
        await until(lambda: sum(executor.outcomes.values()) == count)

    async def shown(self, command: str, columns: int | None) -> str:
        """Return what a command prints on a terminal, or in a pipe."""
        words, environment = shlex.split(command), {"USER": "ann", "FLAGSVC_ADDRESS": self._address}
        if columns is None:
            text = (await asyncio.to_thread(run_here, *words, **environment, NO_COLOR="1")).stdout
        else:
            terminal = Terminal(columns)
            await asyncio.to_thread(terminal.run, *words, **environment)
            text = terminal.text
        return f"$ flagsvc {command}\n{text}"


async def play(folder: Path) -> dict[str, str]:
    """Play the day, and return what the sheets say."""
    clock, moments, shown = Clock(), list[str](), dict[int | None, list[str]]({**{w: [] for w in WIDTHS}, None: []})
    async with serving(folder, clock) as server:
        day = Day(server, clock)

        async def look(*commands: str) -> None:
            for columns, texts in shown.items():
                texts += [await day.shown(command, columns) for command in commands]

        await day.run("bob", "create new-checkout name='New checkout' --reason 'for the campaign'")
        day.to("08:00")
        at = "--at 2026-12-01T10:00 --zone Europe/Berlin"
        await day.run("ann", f"schedule new-checkout --status enabled {at} --reason launch")
        await day.run("ann", "schedule new-checkout --status disabled --at 2026-12-05T09:00 --reason 'end of campaign'")
        day.to("09:00")
        await day.until_executed(1)
        await day.run("ann", "rollout new-checkout --to on --over 8h --reason slowly")
        day.to("11:00")
        await look("list", "rollout new-checkout")
        evaluate = "evaluate new-checkout --targeting-key user-2 --explain --at"
        for moment in ("1d", "0s", "+2h", "+7d"):
            moments.append(await day.shown(f"{evaluate} {moment}", 100))
        day.to("12:00")
        await day.run("bob", "rollout new-checkout --pause --reason 'error rate'")
        day.to("12:30")
        await look("list")
        day.to("13:00")
        await day.run("bob", "rollout new-checkout --resume --reason 'it was the network'")
        day.to("15:00")
        await day.run("ann", "rollout new-checkout --rollback --over 10m --reason 'incident 42'")
        day.to("15:30")
        await day.run("ann", "rollback new-checkout --to 2 --reason 'as before the rollout'")
        day.to("17:00")
        await look("history new-checkout", "schedules list --state executed --state pending", "diff new-checkout 1")
        moments.append(await day.shown(f"{evaluate} 5h", 100))
    by_width = "\n".join(
        f"== {f'{columns} columns' if columns else 'piped'}\n{''.join(texts)}" for columns, texts in shown.items()
    )
    return {"day": by_width, "day-moments": "\n".join(moments)}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        sheets = asyncio.run(play(Path(folder)))
    for name, text in sheets.items():
        (FOLDER / f"{name}.txt").write_text(text, encoding="utf-8")
