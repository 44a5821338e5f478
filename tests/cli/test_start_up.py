"""What commands import: a container runs `health` every few seconds, and a shell waits for each completion."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flagsvc.cli.parser import build_parser
from flagsvc.cli.parsing import Parser

pytestmark = pytest.mark.xdist_group("cli start-up")
SLOW = {"google.protobuf", "rich", "yaml", "shutil", "difflib", "structlog", "flagsvc.core.evaluation", "argcomplete"}


RUN = """
import sys
from flagsvc.__main__ import main
sys.argv = ["flagsvc", *sys.argv[1:]]
print(main(), *sys.modules)
"""


@pytest.mark.parametrize("command", [("health", "--address={}"), ("version",)], ids=["health", "version"])
def test_a_command_imports_nothing_slow_that_it_does_not_need(address: str, command: tuple[str, ...]) -> None:
    words = [word.format(address) for word in command]
    done = subprocess.run([sys.executable, "-c", RUN, *words], capture_output=True, text=True, timeout=60, check=True)
    status, *modules = done.stdout.splitlines()[-1].split()
    assert (status, SLOW & set(modules)) == ("0", set()), done.stderr


def test_only_the_arguments_of_the_command_are_added() -> None:
    parser = build_parser()
    parser.parse_args(["list"])
    (commands,) = (action for action in parser._actions if isinstance(action.choices, dict))
    filled = [name for name, each in commands.choices.items() if isinstance(each, Parser) and not each._add_later]
    assert filled == ["list"]
