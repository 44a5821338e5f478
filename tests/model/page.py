"""The two tables of docs/model.md. `python -m tests.model --page` writes them there; the tests compare each row."""

from __future__ import annotations

from pathlib import Path

from tests.model.holes import FOUND, KNOWN, NEEDLESS, Hole
from tests.model.search import Result, search
from tests.model.setups import QUICK
from tests.model.state import Setup

PAGE = Path(__file__).parents[2] / "docs" / "model.md"
_WORLDS = "| world | what is in it | states | steps | depth |\n|---|---|---:|---:|---:|\n"
_HOLES = "| without | breaks | the shortest way there |\n|---|---|---|\n"


def world_row(setup: Setup, result: Result) -> str:
    """Return the row of one world."""
    return f"| {setup.name} | {setup.about} | {result.states:,} | {result.steps:,} | {result.depth} |"


def hole_row(hole: Hole, result: Result) -> str:
    """Return the row of one hole."""
    kind, _, text = result.broken.partition(": ")
    way = " · ".join(step.removeprefix("--- ") for step in result.trace)
    return f"| {hole.name} | {kind} | {way} ⇒ {text} |" if kind else f"| {hole.name} | | nothing breaks |"


def write() -> None:
    """Search everything and write the tables into the page."""
    tables = {"worlds": _WORLDS + "\n".join(world_row(setup, search(setup)) for setup in QUICK)}
    for name, holes in (("known", KNOWN), ("found", FOUND), ("needless", NEEDLESS)):
        tables[name] = _HOLES + "\n".join(hole_row(hole, search(hole.world)) for hole in holes)
    text = PAGE.read_text()
    for name, table in tables.items():
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        _, _, after = rest.partition("<!-- end -->")
        text = f"{before}<!-- {name} -->\n{table}\n<!-- end -->{after}"
    PAGE.write_text(text)
