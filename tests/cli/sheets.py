"""What commands print on terminals of several widths and into a pipe, for answers of a server that are fixed.

`python -m tests.cli.sheets` writes the sheets again.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

from flagsvc.cli import edit
from tests.cli.answers import RULE, Moving, Server, answered
from tests.command_line import Terminal, run_here

FOLDER = Path(__file__).parent / "sheets"
WIDTHS = (60, 80, 160)
SHEETS: Mapping[str, tuple[str, ...]] = {
    "list": ("flagsvc list",),
    "status": ("flagsvc status",),
    "history": ("flagsvc history checkout-v2",),
    "audit": ("flagsvc history --since 1h",),
    "rollout": ("flagsvc rollout checkout-v2",),
    "rollout-changes": (
        "flagsvc rollout checkout-v2 --to on --over 3d --reason 'as announced'",
        "flagsvc rollout checkout-v2 --pause --reason 'error rate'",
        "flagsvc rollout checkout-v2 --rollback --over 10m",
    ),
    "list-rollouts": ("flagsvc list",),
    "schedule": ("flagsvc schedule checkout-v2 --status disabled owner=payments --in 1d --reason 'end of campaign'",),
    "rollback": (
        "flagsvc rollback checkout-v2 --to 46 --dry-run",
        "flagsvc rollback checkout-v2 --to 46 --reason 'before the release'",
        "flagsvc rollback --all --to 41 --dry-run",
    ),
    "diff": ("flagsvc diff checkout-v2 46 47",),
    "toggle": ("flagsvc toggle checkout-v2 OFF --reason 'error rate'",),
    "watch": ("flagsvc watch",),
    "token-list": ("flagsvc token list --all",),
    "schedules": ("flagsvc schedules list",),
    "segments": ("flagsvc segments",),
    "segment-set": ("""flagsvc segment set pro '{"var":"paid"}' --dry-run""",),
    "slips": (
        "flagsvc togle checkout-v2 off",
        "flagsvc get checkout-v3",
        "flagsvc set checkout-v2 stauts=ENABLED",
        "flagsvc set checkout-v2 status=on",
        "flagsvc list --flagset staging",
        "flagsvc toggle checkout-v2",
        "flagsvc get checkout-v3 --json",
    ),
    "edit-conflict": ("flagsvc edit checkout-v2 --reason 'moved to payments'",),
    "simulate": ("flagsvc simulate checkout-v2 --contexts users.ndjson --rule new.json --limit 3",),
}
"""Sheet -> the commands that it shows."""
MOVING = ("rollout-changes", "list-rollouts", "rollback", "diff")
"""Sheets of a flag that has a rollout."""
FOR_PEOPLE = ("slips", "edit-conflict", "segment-set")
"""Sheets of what is not printed into a pipe."""
SENTENCES = ("toggle", "rollback", "diff", "rollout-changes")
"""Sheets of what is no table in a pipe."""


def _edit_owner(file: Path) -> None:
    file.write_text(file.read_text().replace("status: ENABLED", "status: ENABLED\nowner: payments"))


@contextlib.contextmanager
def prepared() -> Iterator[None]:
    """Be in a folder with the files that commands name, with an editor that changes the owner."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        patch.object(edit, "_open_editor", _edit_owner),
        patch("tempfile.tempdir", folder),
    ):
        contexts = ({"targetingKey": f"user-{n}", "plan": "pro" if n % 3 else "free"} for n in range(30))
        Path("users.ndjson").write_text("\n".join(map(json.dumps, contexts)))
        Path("new.json").write_text('{"if": [{"==": [{"var": "plan"}, "pro"]}, "on", ' + RULE + "]}")
        yield


@functools.cache
def sheet(name: str) -> str:
    """Return what commands print: on a terminal with their errors, in a pipe without."""
    commands = SHEETS[name]
    with contextlib.redirect_stderr(io.StringIO()), prepared():
        kind = Moving if name in MOVING else Server
        parts = [f"== {columns} columns\n{_shown(commands, columns, kind)}" for columns in WIDTHS]
        if name not in FOR_PEOPLE:
            parts.append(f"== piped\n{_shown(commands, None, kind)}")
        return "\n".join(parts)


def _shown(commands: Sequence[str], columns: int | None, kind: type[Server]) -> str:
    """Return what commands print, each under its own line if there is more than one. `columns` None: in a pipe."""
    shown = []
    for command in commands:
        words = shlex.split(command)[1:]
        with answered(kind):
            if columns is None:
                text = run_here(*words, NO_COLOR="1").stdout
            else:
                terminal = Terminal(columns, keys="y\n")
                terminal.run(*words)
                text = terminal.text
        prompt = f"$ {command}\n" if len(commands) > 1 else ""
        shown.append(prompt + re.sub(r"\S*flagsvc-\w+\.yaml", "/tmp/flagsvc-a1b2c3d4.yaml", text))
    return "".join(shown)


if __name__ == "__main__":
    for name in SHEETS:
        (FOLDER / f"{name}.txt").write_text(sheet(name), encoding="utf-8")
