"""Reports the results of a run: on the terminal, and in docs/faults.md between its markers."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import grpc
import numpy as np
from rich.console import Console
from rich.table import Table

from tests.faults.attempts import Attempt, OpenStream
from tests.faults.checker import PROMISES, Verdict
from tests.faults.record import Record, Story
from tests.faults.revocation import went_on

BEGIN, END = "<!-- run -->\n", "<!-- /run -->"
Row = tuple[str, ...]
LATENESS = ("planned changes executed", "count", "late by p50", "p99", "most")
REVOCATION = ("replica", "samples", "p50", "p99", "worst")
_MILLISECONDS_BELOW_S = 1.0


def counts(record: Record) -> list[Row]:
    """Return how much was done."""
    story = record.story
    kinds = Counter(write.kind for write in story.writes)
    acknowledged = sum(write.acknowledged for write in story.writes)
    lost = sum(1 for write in story.foreign if write.done is None)
    lives = len(story.incarnations)
    return [
        ("evaluations", f"{len(record):,}"),
        ("failed calls", _failed(story)),
        ("writes through replicas", f"{len(story.writes):,} ({acknowledged:,} acknowledged)"),
        ("toggles among them", f"{kinds['toggle']:,}"),
        ("foreign changes", f"{len(story.foreign):,} ({lost:,} whose outcome stayed unknown)"),
        ("faults", f"{len(story.faults):,}"),
        ("replica processes", f"{lives:,}"),
        ("tokens and secrets made, and ended", _credentials(story)),
        ("calls with them", f"{len(story.attempts):,} ({_outcomes(story.attempts)})"),
        ("streams with them", f"{len(story.streams):,} ({_outcomes(story.streams)})"),
        ("calls of the caller over its rate", _greedy(story)),
        ("planned changes", _plans(story)),
        (
            "answers of flags with a rollout",
            f"{len(story.moved):,} ({sum(each.moved for each in story.moved):,} moved)",
        ),
        ("edits of rollouts", f"{kinds['pause'] + kinds['resume'] + kinds['edit']:,}"),
        ("revisions kept", f"{len(story.ending.definitions):,}"),
    ]


def faults(story: Story) -> list[Row]:
    """Return the faults by kind: how many, and how long the longest lasted until all had recovered."""
    found: dict[str, list[float]] = {}
    for fault in story.faults:
        found.setdefault(fault.kind, []).append(fault.end - fault.begin)
    return [(kind, str(len(each)), _time(max(each))) for kind, each in sorted(found.items())]


def promises(verdict: Verdict) -> list[Row]:
    """Return how often each promise was broken."""
    return [(promise, f"{verdict.counts[promise]:,}") for promise in PROMISES]


def staleness(verdict: Verdict) -> list[Row]:
    """Return for each kind of fault how long old answers went on."""
    total = {"all": verdict.staleness.total(), "foreign, no fault": verdict.staleness.foreign_in_quiet()}
    rows = verdict.staleness.by_kind() | total
    return [(kind, f"{n:,}", _time(p99), _time(worst), _time(old)) for kind, (n, p99, worst, old) in rows.items()]


def times(record: Record, verdict: Verdict) -> list[Row]:
    """Return how long things took."""
    story = record.story
    rows = [
        (f"evaluation, {name}", f"p99 {_time(p99)}, worst {_time(worst)}")
        for name, (p99, worst) in verdict.latencies.items()
    ]
    starts = sorted(each.ready - each.started for each in story.incarnations if each.ready < each.ended)
    if starts:
        rows.append(
            ("start of a replica until ready", f"median {_time(starts[len(starts) // 2])}, worst {_time(starts[-1])}")
        )
    if story.ending.recovered_s:
        rows.append(
            ("at the end, until replicas match MongoDB", f"worst {_time(max(story.ending.recovered_s.values()))}")
        )
    rows.append(("answers with reason STALE", f"{verdict.stale_answers:,}"))
    rows.append(("the clients' own process did not run", f"{len(story.lags)} times"))
    starved = [(until - since, seconds) for each in story.incarnations for since, until, seconds in each.starved]
    waited, long = sum(seconds for _, seconds in starved), sum(most for most, _ in starved)
    rows.append(("replicas waited for a CPU", f"{_time(waited)} of {_time(long)}"))
    return rows


def lateness(verdict: Verdict) -> list[Row]:
    """Return how late planned changes were executed."""
    late = verdict.lateness.late
    rows = []
    groups = {"no fault": [each.seconds for each in late if not each.in_fault]}
    groups["a fault between its time and its execution"] = [each.seconds for each in late if each.in_fault]
    for name, seconds in groups.items():
        p50, p99 = np.quantile(seconds, (0.5, 0.99)) if seconds else (0.0, 0.0)
        rows.append((name, f"{len(seconds):,}", _time(p50), _time(p99), _time(max(seconds, default=0.0))))
    return rows


def show(record: Record, verdict: Verdict, console: Console) -> None:
    """Print everything."""
    story = record.story
    console.print(f"[bold]seed {story.seed}[/], {story.seconds:g} s, {_where(story)}")
    _print(console, "what", ("", "count"), counts(record))
    _print(console, "faults", ("kind", "count", "longest, including recovery"), faults(story))
    heads = ("fault active meanwhile", "samples", "p99", "worst", "worst, STALE included")
    _print(console, "from a change's answer to the last old answer", heads, staleness(verdict))
    _print(console, "from a revocation's answer to the last accepted call", REVOCATION, revocation(story))
    _print(console, "how late planned changes were executed, by MongoDB's clock", LATENESS, lateness(verdict))
    _print(console, "times", ("", ""), times(record, verdict))
    _print(console, "promises", ("promise", "times broken"), promises(verdict))
    for name, count in story.links.items():
        if not count:
            console.print(f"no connection was ever seen: {name}; its faults had no effect", style="yellow")
    for promise, texts in verdict.explained.items():
        for text in texts:
            console.print(f"{promise}: {text}", style="red", markup=False, highlight=False)
    console.print("every promise was kept" if verdict.kept else "promises were broken", style="bold")


def write(record: Record, verdict: Verdict, page: Path, picture: str) -> None:
    """Replace the newest run in the page, between its markers."""
    head, _, rest = page.read_text().partition(BEGIN)
    tail = rest.partition(END)[2]
    page.write_text(head + BEGIN + _page(record, verdict, picture) + END + tail)


def _page(record: Record, verdict: Verdict, picture: str) -> str:
    story = record.story
    command = f"FAULTS_SECONDS={story.seconds:g} FAULTS_SEED={story.seed} make faults"
    parts = [
        f"`{command}`: {_where(story)}.\n",
        _markdown(("what", "count"), counts(record)),
        _markdown(("promise", "times broken"), promises(verdict)),
        f"![From a change's answer to the last old answer]({picture})\n",
        _markdown(("fault active meanwhile", "samples", "p99", "worst", "worst, STALE included"), staleness(verdict)),
        _markdown(REVOCATION, revocation(story)),
        _markdown(LATENESS, lateness(verdict)),
        _markdown(("time", "took"), times(record, verdict)),
        _markdown(("fault", "count", "longest, including recovery"), faults(story)),
    ]
    return "\n" + "\n".join(parts) + "\n"


def _where(story: Story) -> str:
    mongods = "one mongod" if story.mongods == 1 else f"{story.mongods} mongods"
    return (
        f"{mongods}, one redis-server, three replicas; {story.versions}, grpcio {grpc.__version__},"
        f" Python {platform.python_version()}, {os.cpu_count()} CPUs"
    )


def revocation(story: Story) -> list[Row]:
    """Return for how long callers went on after the end of their credentials was answered."""
    rows = []
    for name, seconds in went_on(story).items():
        ranked = np.array(seconds)
        p50, p99 = np.quantile(ranked, (0.5, 0.99)) if len(ranked) else (0.0, 0.0)
        rows.append((name, f"{len(ranked):,}", _time(p50), _time(p99), _time(max(seconds, default=0.0))))
    return rows


def _credentials(story: Story) -> str:
    return f"{len(story.credentials):,}, {sum(bool(each.ended_by) for each in story.credentials):,}"


def _outcomes(seen: Iterable[Attempt | OpenStream]) -> str:
    found = Counter(each.outcome or "left open" for each in seen)
    return ", ".join(f"{outcome} {count:,}" for outcome, count in found.most_common())


def _greedy(story: Story) -> str:
    greedy, accepted = story.greedy, len(story.greedy.accepted)
    return f"{accepted + greedy.refused:,} ({accepted:,} accepted; its rate is {greedy.rate:g} a second)"


def _plans(story: Story) -> str:
    states = Counter(row["state"] for row in story.ending.schedules)
    named = ", ".join(f"{state} {count:,}" for state, count in states.most_common())
    return f"{len(story.plans):,} ({named or 'none'})"


def _failed(story: Story) -> str:
    kinds = Counter(f"{failure.code} {failure.reason}".strip() for failure in story.failures)
    named = ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common(6))
    return f"{len(story.failures):,}" + (f" ({named})" if named else "")


def _time(seconds: float) -> str:
    if seconds == 0:
        return "0"
    return f"{seconds * 1000:,.0f} ms" if seconds < _MILLISECONDS_BELOW_S else f"{seconds:,.2f} s"


def _print(console: Console, title: str, heads: Sequence[str], rows: Sequence[Row]) -> None:
    table = Table(title=title, title_justify="left")
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _markdown(heads: Sequence[str], rows: Sequence[Row]) -> str:
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"
