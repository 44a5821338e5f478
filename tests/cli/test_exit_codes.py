"""The table of exit codes in docs/cli.md is that of the program. `python -m tests.cli.test_exit_codes` writes it."""

from __future__ import annotations

from pathlib import Path

from flagsvc.cli.exit_codes import EXIT_CODES
from tests.command_line import run_here

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
BEGIN, END = "<!-- exit codes -->\n", "<!-- /exit codes -->"


def parts() -> tuple[str, str, str]:
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    middle, _, tail = rest.partition(END)
    return head, middle, tail


def table() -> str:
    rows = (f"| {code} | {about} |" for code, about in EXIT_CODES.items())
    return "\n".join(("| code | meaning |", "|---|---|", *rows)) + "\n"


def test_the_page_has_every_exit_code() -> None:
    assert parts()[1] == table()


def test_help_prints_them() -> None:
    printed = run_here("help", "exit-codes").stdout.splitlines()
    assert [line.split(maxsplit=1) for line in printed] == [[str(code), about] for code, about in EXIT_CODES.items()]


if __name__ == "__main__":
    head, _, tail = parts()
    PAGE.write_text(head + BEGIN + table() + END + tail, encoding="utf-8")
