"""The targeting engine compared with openfeature-flagd-core, alternating in one process: microseconds per rule."""

from __future__ import annotations

import argparse
import json
import logging
import platform
import statistics
import time
import timeit
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import resolve_all
from benchmarks.engine_picture import draw
from flagsvc.core.evaluation import ValueType, check_type, prepare
from flagsvc.core.model import Flag, Status
from flagsvc.core.targeting import compile_texts

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
FACTOR = 5.0
VARIANTS = {"on": True, "off": False}
ATTRIBUTES = {"plan": "pro", "country": "FR", "age": 33, "email": "ann@example.com", "version": "1.10.3"}
CONTEXT = {**ATTRIBUTES, "targetingKey": "user-1"}
PRO = {"==": [{"var": "plan"}, "pro"]}
EUROPE, ADULT = {"in": [{"var": "country"}, ["DE", "FR", "IT"]]}, {">=": [{"var": "age"}, 18]}
RULES: dict[str, tuple[Any, float | None]] = {
    "static": (None, 0.3),
    "one condition": ({"if": [PRO, "on", "off"]}, None),
    "three conditions": ({"if": [{"and": [PRO, EUROPE, ADULT]}, "on", "off"]}, 1.5),
    "chain of three, no match": (
        {"if": [item for name in ("a", "b", "c") for item in ({"==": [{"var": "plan"}, name]}, "on")] + ["off"]},
        None,
    ),
    "fractional 50/50 by key": ({"fractional": [["on", 50], ["off", 50]]}, 2.0),
    "fractional 50/50 by e-mail": (
        {"fractional": [{"cat": [{"var": "$flagd.flagKey"}, {"var": "email"}]}, ["on", 50], ["off", 50]]},
        2.0,
    ),
    "sem_ver": ({"if": [{"sem_ver": [{"var": "version"}, ">=", "1.2.0"]}, "on", "off"]}, None),
    "list of roles, some": (
        {"if": [{"some": [{"var": "roles"}, {"in": [{"var": ""}, ["admin", "owner"]]}]}, "on", "off"]},
        None,
    ),
}
"""Rules by name, each with its budget in microseconds or None."""


@dataclass(slots=True)
class Measured:
    """Microseconds per evaluation in both engines, one figure per round."""

    ours: list[float]
    theirs: list[float]
    budget_us: float | None

    @property
    def ratio(self) -> float:
        """How many times faster flagsvc is: median of the rounds' ratios."""
        return statistics.median(t / o for o, t in zip(self.ours, self.theirs, strict=True))


def main() -> None:
    """Measure, print the table, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="rounds; the table shows medians [15]")
    parser.add_argument("--number", type=int, default=5_000, help="evaluations per round [5000]")
    args = parser.parse_args()
    logging.disable()  # flagd-core logs every split that fails
    console = Console(width=120)
    oracle = f"openfeature-flagd-core {metadata.version('openfeature-flagd-core')}"
    console.print(f"flagsvc compared with {oracle}, Python {platform.python_version()}")
    measured = {n: Measured([], [], budget) for n, (_, budget) in RULES.items()}
    pairs = {name: _pair(rule) for name, (rule, _) in RULES.items()}
    for _ in track(range(args.rounds), "measuring", console=console):
        for name, (ours, theirs) in pairs.items():
            measured[name].ours.append(_microseconds(ours, args.number))
            measured[name].theirs.append(_microseconds(theirs, args.number // 5))
    compiling_ms = _compiling_ms(args.rounds)
    console.print(f"calling ResolveAll {resolve_all.CALLS} times for {resolve_all.FLAGS:,} flags")
    all_cpu_ms, all_wait_ms = resolve_all.measure(RULES["three conditions"][0], CONTEXT)
    console.print(_table(measured))
    for line in _verdicts(measured, compiling_ms):
        console.print(line)
    console.print(
        f"ResolveAll of {resolve_all.FLAGS:,} flags with three conditions: {all_cpu_ms:.1f} ms of the server's CPU,"
        f" {all_wait_ms:.1f} ms for the caller; budget 10 ms: {_met(all_cpu_ms <= 10)}"
    )
    command = f"python -m benchmarks.engine --rounds {args.rounds} --number {args.number}"
    figures = {n: {"ours us": m.ours, "flagd-core us": m.theirs} for n, m in measured.items()}
    record = {"command": command, "beside": oracle, "figures": figures, "compiling 1,000 rules ms": compiling_ms}
    record |= {"ResolveAll CPU ms": all_cpu_ms, "ResolveAll wait ms": all_wait_ms}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "engine.json").write_text(json.dumps(record, indent=1) + "\n")
    draw({n: (statistics.median(m.ours), statistics.median(m.theirs)) for n, m in measured.items()}, OUT / "engine.png")
    console.print(f"written: {OUT / 'engine.png'} and engine.json")


def _pair(rule: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return one evaluation in each engine, with type check; asserts that both give the same result."""
    context = {**CONTEXT, "roles": ["reader", "owner"]}
    text = None if rule is None else json.dumps(rule)
    flag = Flag(key="flag", status=Status.ENABLED, variants=VARIANTS, default_variant="on", targeting=text, bucketing=3)
    prepared = prepare(flag)
    definition = {"state": "ENABLED", "variants": VARIANTS, "defaultVariant": "on"} | (
        {"targeting": rule} if rule else {}
    )
    core = FlagdCore()
    core.set_flags(json.dumps({"flags": {"flag": definition}}))
    theirs_context = EvaluationContext("user-1", {k: v for k, v in context.items() if k != "targetingKey"})

    def ours() -> Any:
        return check_type(prepared.fixed or prepared.evaluate(context, time.time()), ValueType.BOOLEAN)

    def theirs() -> Any:
        return core.resolve_boolean_value("flag", False, theirs_context)

    own, other = ours(), theirs()
    assert (own.value, own.variant, own.reason) == (other.value, other.variant, other.reason), rule
    return ours, theirs


def _microseconds(work: Callable[[], Any], number: int) -> float:
    return timeit.timeit(work, number=number) / number * 1e6


def _compiling_ms(rounds: int) -> float:
    """Compile 1,000 different rules of about 250 bytes from their texts; milliseconds, median of the rounds."""
    texts = []
    for number in range(1_000):
        condition = {"and": [{"==": [{"var": "plan"}, f"plan-{number}"]}, {"in": [{"var": "country"}, ["DE", "FR"]]}]}
        split = {"fractional": [{"cat": [{"var": "$flagd.flagKey"}, {"var": "email"}]}, ["on", 50], ["off", 50]]}
        texts.append(json.dumps({"if": [condition, split, {"starts_with": [{"var": "email"}, "ann"]}, "on", "off"]}))
    assert 230 <= statistics.mean(map(len, texts)) <= 330, statistics.mean(map(len, texts))
    figures = []
    for _ in range(rounds):
        started = time.perf_counter()
        for text in texts:
            compile_texts(text, "flag", {})
        figures.append((time.perf_counter() - started) * 1e3)
    return statistics.median(figures)


def _table(measured: dict[str, Measured]) -> Table:
    table = Table(title="microseconds per evaluation, median of the rounds (min to max)")
    table.add_column("rule")
    for column in ("flagsvc", "budget", "flagd-core", "times faster"):
        table.add_column(column, justify="right")
    for name, figures in measured.items():
        budget = f"{figures.budget_us:g}" if figures.budget_us else "-"
        table.add_row(name, _cell(figures.ours), budget, _cell(figures.theirs), f"{figures.ratio:.1f}")
    return table


def _cell(figures: list[float]) -> str:
    return f"{statistics.median(figures):.2f} ({min(figures):.2f} to {max(figures):.2f})"


def _verdicts(measured: dict[str, Measured], compiling_ms: float) -> list[str]:
    worst = min(measured, key=lambda name: measured[name].ratio)
    within = all(m.budget_us is None or statistics.median(m.ours) <= m.budget_us for m in measured.values())
    ratio = measured[worst].ratio
    lowest = f"lowest: {ratio:.1f}, {worst}"
    return [
        f"at least {FACTOR:g} times flagd-core for every rule ({lowest}): {_met(ratio >= FACTOR)}",
        f"every budget in microseconds: {_met(within)}",
        f"compiling 1,000 rules of about 250 bytes: {compiling_ms:.0f} ms; budget 100 ms: {_met(compiling_ms <= 100)}",
    ]


def _met(is_met: bool) -> str:
    return "met" if is_met else "MISSED"


if __name__ == "__main__":
    main()
