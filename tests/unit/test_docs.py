"""The README's table of settings is what settings.py says."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

from flagsvc.settings import PREFIX, Settings

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- settings -->\n", "<!-- /settings -->"


def table() -> str:
    rows = ["| name | default | what it is |", "|---|---|---|"]
    for field in fields(Settings):
        low, high = field.metadata["low"], field.metadata["high"]
        about = field.metadata["about"] + (f" Range: {low:.10g} to {high:.10g}." if low is not None else "")
        default = f"`{field.default}`" if field.default != "" else ""
        rows.append(f"| `{PREFIX}{field.name.upper()}` | {default} | {about} |")
    return "\n".join(rows) + "\n"


def parts() -> tuple[str, str, str]:
    head, _, rest = README.read_text().partition(BEGIN)
    middle, _, tail = rest.partition(END)
    return head, middle, tail


def test_the_readme_has_every_setting() -> None:
    assert parts()[1] == table(), "run: python -m tests.unit.test_docs"


if __name__ == "__main__":
    head, _, tail = parts()
    README.write_text(head + BEGIN + table() + END + tail)
    sys.stdout.write("README.md: settings written\n")
