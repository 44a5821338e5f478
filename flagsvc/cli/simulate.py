"""`flagsvc simulate KEY`: which variant each of many contexts gets, and which another one after a change.

It is computed here, with the server's definition and the server's engine. Context values that a server adds by its
settings are not known here.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TextIO

from flagsvc.api.flag_service.flag_messages import received
from flagsvc.cli import arguments, dry_run, render
from flagsvc.cli.calls import Stub
from flagsvc.cli.exit_codes import OK
from flagsvc.cli.tables import Column, print_table
from flagsvc.cli.terminal import is_terminal, say, wrapped
from flagsvc.cli.usage import UsageError
from flagsvc.core.evaluation import Outcome, Prepared, prepare
from flagsvc.core.json_values import NotJson, strict_loads
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb

MAX_LINE = 1024 * 1024
LISTED = 20
"""Contexts that are listed on a terminal, where --limit does not say otherwise."""


class _Result(NamedTuple):
    context: str
    now: str
    then: str


def simulate(args: argparse.Namespace, stub: Stub) -> int:
    """Evaluate every context, by the stored definition and by the changed one."""
    request = pb.GetFlagRequest(flag_key=args.key, flag_set=args.flag_set)
    flag = received(stub.GetFlag(request, timeout=args.timeout).flag)
    edits = arguments.read_edits([*args.fields, *([f"targeting=@{args.rule}"] if args.rule else [])])
    changed = dry_run.check(flag, arguments.edited(flag, edits), "", "").after if edits else flag
    assert changed is not None  # noqa: S101  an update deletes nothing
    before, after = prepare(flag), prepare(changed)
    with _opened(args.contexts) as lines:
        counts = _Counts(_evaluated(lines, args.contexts, before, after), has_change=bool(edits), limit=_limit(args))
        if args.json:
            render.print_json({"flagKey": flag.key, "revision": flag.revision, **counts.as_json()})
        elif is_terminal():
            counts.print()
        else:
            counts.stream()
    return OK


class _Counts:
    """How many contexts get which variant, and some of them; with a change, only of those that it concerns."""

    def __init__(self, results: Iterator[_Result], *, has_change: bool, limit: int | None) -> None:
        self._results, self._has_change, self._limit = results, has_change, limit
        self._now, self._then, self._changed = Counter[str](), Counter[str](), 0

    def stream(self) -> None:
        """Print a line for each context, and the counts beside the output."""
        titles = ("context", "now", *(("then", "changes") if self._has_change else ()))
        print("\t".join(titles))
        for result in self._counted():
            changes = ("yes" if result.now != result.then else "no",)
            print("\t".join(map(render.text, (*result, *changes) if self._has_change else result[:2])))
        say(self._summary(), error=True)

    def print(self) -> None:
        """Print the counts, and under them a list."""
        listed = self._listed()
        heads = [Column("variant"), Column("now"), *([Column("then")] if self._has_change else [])]
        names = sorted(self._now | self._then)
        rows = [[name, self._now[name], *([self._then[name]] if self._has_change else [])] for name in names]
        print_table(heads, rows, "no contexts")
        print(wrapped(self._summary()))
        if listed:
            heads = [Column("context"), Column("now"), *([Column("then")] if self._has_change else [])]
            print()
            print_table(heads, [result[: len(heads)] for result in listed], "")

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON."""
        listed = self._listed()
        total = self._now.total()
        found: dict[str, Any] = {"contexts": total, "now": dict(self._now)}
        if self._has_change:
            found |= {"then": dict(self._then), "changed": self._changed}
        names = ("context", "now", "then") if self._has_change else ("context", "now")
        return {**found, "listed": [dict(zip(names, result, strict=False)) for result in listed]}

    def _listed(self) -> list[_Result]:
        listed: list[_Result] = []
        for result in self._counted():
            concerned = not self._has_change or result.now != result.then
            if concerned and (self._limit is None or len(listed) < self._limit):
                listed.append(result)
        return listed

    def _counted(self) -> Iterator[_Result]:
        for result in self._results:
            self._now[result.now] += 1
            self._then[result.then] += 1
            self._changed += result.now != result.then
            yield result

    def _summary(self) -> str:
        total = self._now.total()
        if not self._has_change:
            return f"{total:,} contexts"
        return f"{self._changed:,} of {total:,} contexts would get another variant; nothing was written"


def _evaluated(lines: TextIO, name: str, before: Prepared, after: Prepared) -> Iterator[_Result]:
    now = time.time()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            context = strict_loads(line) if len(line) <= MAX_LINE else None
        except NotJson as error:
            raise UsageError(f"{name}:{number}: not JSON: {error}") from None
        if not isinstance(context, dict):
            raise UsageError(f"{name}:{number}: must be a JSON object of at most {MAX_LINE} characters, a context")
        title = context.get("targetingKey")
        shown = title if isinstance(title, str) and title else f"line {number}"
        yield _Result(shown, _label(before.evaluate(context, now)), _label(after.evaluate(context, now)))


def _label(outcome: Outcome) -> str:
    """Return the variant; without one, why there is none, in brackets."""
    if outcome.variant is not None:
        return outcome.variant
    return f"({outcome.error_code or outcome.reason})"


def _limit(args: argparse.Namespace) -> int | None:
    if args.limit is not None:
        return int(args.limit)
    return LISTED if is_terminal() and not args.json else None


@contextmanager
def _opened(name: str) -> Iterator[TextIO]:
    if name == "-":
        yield sys.stdin
        return
    try:
        with open(name, encoding="utf-8-sig") as lines:  # noqa: PTH123  as standard input is one
            yield lines
    except OSError as error:
        raise UsageError(f"{name}: cannot be read: {error.strerror}") from None
