"""`python -m tests.model` searches every world and every hole.

`--large`: larger worlds; `--trace HOLE`: one counterexample in full; `--page`: write the tables of docs/model.md.
"""

# ruff: noqa: T201  a command prints

from __future__ import annotations

import argparse
import sys

from tests.model import page
from tests.model.holes import HOLES
from tests.model.search import Result, search, wander
from tests.model.setups import EVERYTHING, LARGE, QUICK

WALKS, STEPS, SEED = 20_000, 120, 1
"""The random ways through the world that is too large to be searched."""


def main() -> int:
    """Print what the searches saw; 1 when a promise is broken, or a hole is not found."""
    arguments = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    arguments.add_argument("--large", action="store_true", help="search the larger worlds (a quarter of an hour)")
    arguments.add_argument("--trace", metavar="HOLE", help="show the counterexample of one hole")
    arguments.add_argument("--page", action="store_true", help="write what is seen into docs/model.md")
    options = arguments.parse_args()
    if options.page:
        page.write()
        return 0
    if options.trace:
        return _trace(options.trace)
    print(f"{'world':28} {'states':>10} {'steps':>10} {'depth':>5} {'ends':>6} {'seconds':>7}")
    if options.large:
        results = [_show(setup.name, search(setup)) for setup in LARGE]
        results.append(_show(f"{EVERYTHING.name}, at random", wander(EVERYTHING, WALKS, STEPS, SEED)))
    else:
        results = [_show(setup.name, search(setup)) for setup in QUICK]
    good = not any(result.broken for result in results)
    if not options.large:
        print(f"\n{'hole':40} {'breaks':6} {'trace':>5} {'states':>8}")
        for hole in HOLES:
            result = search(hole.world)
            kind = result.broken.partition(":")[0]
            good = good and kind == hole.breaks
            print(f"{hole.name:40} {kind or '-':6} {len(result.trace) or '':>5} {result.states:>8}", flush=True)
    return 0 if good else 1


def _show(name: str, result: Result) -> Result:
    seen = f"{result.states:>10,} {result.steps:>10,} {result.depth:>5} {result.ends:>6} {result.seconds:>7.1f}"
    print(f"{name:28} {seen}", flush=True)
    if result.broken:
        print(result.story)
    return result


def _trace(name: str) -> int:
    for hole in HOLES:
        if hole.name == name:
            print(search(hole.world).story or "nothing breaks")
            return 0
    print("one of:", *sorted(hole.name for hole in HOLES), sep="\n  ")
    return 2


if __name__ == "__main__":
    sys.exit(main())
