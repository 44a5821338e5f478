"""Run real replicas under random faults and check every promise: python -m tests.faults. See docs/faults.md."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import uvloop
from rich.console import Console

from tests.faults import report
from tests.faults.checker import check
from tests.faults.record import Record
from tests.faults.run import LONG_RUN_S, Options, Progress, run
from tests.faults.schedule import Fault

_EVERY_S = {True: 1.0, False: 10.0}


def main() -> int:
    """Run, judge and report. Return 0 when every promise was kept, 1 when not, 130 after Ctrl-C."""
    args = _arguments()
    console = Console(stderr=False, width=None if sys.stdout.isatty() else 140)
    if args.check:
        record = Record.load(args.check)
    else:
        console.print(f"FAULTS_SECONDS={args.seconds:g} FAULTS_SEED={args.seed}", highlight=False)
        faults = tuple(Fault(**each) for each in json.loads(args.faults.read_text())) if args.faults else None
        options = Options(args.seed, args.seconds, args.mongods, faults, args.flaw, args.logs, args.load)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                record = runner.run(_run_until_terminated(options, console))
        except (KeyboardInterrupt, asyncio.CancelledError):
            console.print("interrupted; everything that was started has been stopped")
            return 130
    if args.record:
        record.save(args.record)
    console.print(f"checking {len(record):,} evaluations")
    verdict = check(record)
    report.show(record, verdict, console)
    if args.report:
        from tests.faults.picture import draw  # noqa: PLC0415  slow to import, and seldom wanted

        picture = args.report.with_suffix("") / "staleness.png"
        draw(verdict.staleness, record.story.bound_s, picture)
        report.write(record, verdict, args.report, f"{args.report.stem}/{picture.name}")
    return 0 if verdict.kept else 1


async def _run_until_terminated(options: Options, console: Console) -> Record:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run(options, _ProgressPrinter(console))


class _ProgressPrinter:
    """Prints the progress: once a second on a terminal, otherwise once in ten seconds."""

    def __init__(self, console: Console) -> None:
        self._console, self._last, self._what = console, 0.0, ""

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.what == self._what and now - self._last < _EVERY_S[self._console.is_terminal]:
            return
        self._last, self._what = now, progress.what
        done = f"evaluations {progress.evaluations:9,}  writes {progress.writes:5,}  faults {progress.faults:4}"
        wrong = f"  now: {', '.join(progress.active)}" if progress.active else ""
        self._console.print(f"{progress.seconds:4.0f} s  {progress.what}  {done}{wrong}", highlight=False)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    environ = os.environ
    seconds, seed = float(environ.get("FAULTS_SECONDS") or 60), environ.get("FAULTS_SEED")
    chosen = int(seed) if seed else random.SystemRandom().randrange(2**31)
    parser.add_argument("--seconds", type=float, default=seconds, help="length of the run [FAULTS_SECONDS, else 60]")
    parser.add_argument("--seed", type=int, default=chosen, help="seed of the schedule [FAULTS_SEED, else random]")
    parser.add_argument("--mongods", type=int, choices=(1, 3), help=f"[3 from {LONG_RUN_S:g} seconds on, else 1]")
    parser.add_argument("--record", type=Path, metavar="FILE", help="save the record to this file")
    parser.add_argument("--check", type=Path, metavar="FILE", help="run nothing; judge the record in this file")
    parser.add_argument("--report", type=Path, metavar="PAGE", help="write the tables and the picture to this page")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="write the replicas' logs to this folder")
    parser.add_argument("--faults", type=Path, metavar="FILE", help="use these faults instead of drawn ones")
    parser.add_argument(
        "--flaw", default="", help="plant these flaws, with commas, in every replica: tests/faults/planted.py"
    )
    parser.add_argument("--load", type=float, default=1.0, help="share of the load; 1 is about 200 calls a second each")
    args = parser.parse_args()
    args.mongods = args.mongods or (3 if args.seconds >= LONG_RUN_S else 1)
    return args


if __name__ == "__main__":
    sys.exit(main())
