"""The Python and TypeScript code in clients/README.md runs unchanged, except for the ports."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.languages import clients
from tests.languages.conftest import Say
from tests.languages.samples import EVERYTHING
from tests.providers import node_app
from tests.providers.cases import flag
from tests.providers.line_app import environment
from tests.providers.servers import serving, serving_default_ports
from tests.typescript import building

FRONT_PAGE = Path(__file__).parents[2] / "README.md"
README = Path(__file__).parents[2] / "clients" / "README.md"


def block(language: str, beginning: str, page: Path = README) -> str:
    """Return the only block of a page in this language that begins with this text."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    (found,) = (text for text in blocks if text.startswith(beginning))
    return found


@pytest.mark.parametrize("beginning", ["from flagsvc_client import", "from openfeature import"])
def test_python(tmp_path: Path, beginning: str) -> None:
    assert shown(tmp_path, block("python", beginning), sys.executable, "-c", folder=tmp_path) == ["True"]


@pytest.mark.xdist_group("typescript")
def test_the_typescript_client(tmp_path: Path) -> None:
    building.build()
    code = block("js", "import { FlagClient }")
    command = (str(building.NODE), "--input-type=module", "--eval")
    assert shown(tmp_path, code, *command, folder=building.FOLDER) == ["true", "STATIC"]


@pytest.mark.xdist_group("default ports")
def test_go_with_its_defaults(tmp_path: Path, say: Say) -> None:
    """The program in the README of the repository, as it is, on the default ports."""
    if not EVERYTHING or shutil.which("go") is None:
        say("Go's program in README.md was not run: it needs go on PATH and `make languages`")
        return
    (tmp_path / "main.go").write_text(block("go", "package main", FRONT_PAGE))
    with serving_default_ports(tmp_path / "flags.db", [flag("checkout-v2")]):
        command = ("go", "run", str(tmp_path / "main.go"))
        done = subprocess.run(
            command,
            cwd=clients.HERE / "go",
            env=environment(),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, "true <nil>\n"), done.stderr


def test_the_provider_for_node(tmp_path: Path) -> None:
    node_app.install()
    code = block("js", "import { OpenFeature }")
    command = (str(building.NODE), "--input-type=module", "--eval")
    assert shown(tmp_path, code, *command, folder=node_app.FOLDER) == ["true"]


def shown(scratch: Path, code: str, *command: str, folder: Path) -> list[str]:
    """Return the lines that the code prints; also with what a comment in it says about evaluation in process."""
    lines = []
    with serving(scratch / "flags.db", [flag("checkout-v2")]) as (process, _):
        code = code.replace("8013", str(process.port)).replace("8015", str(process.sync_port))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FLAGD_")}
        for variant in {code, in_process(code)}:
            done = subprocess.run(
                [*command, variant],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert (done.returncode, done.stderr) == (0, ""), f"{variant}\n{done.stderr}"
            lines.append(done.stdout.splitlines())
    assert all(line == lines[0] for line in lines)
    return lines[0]


def in_process(code: str) -> str:
    """Put what follows "In your process:" in place of the provider before it."""
    match = re.search(r"^(?:#|//) In your process: (.*)\n", code, re.MULTILINE)
    if not match:
        return code
    before = code[: match.start()]
    return (
        re.sub(r"(?:new )?FlagdProvider\((?!.*FlagdProvider\().*?\)(?=\)\s*;?\s*$)", match[1], before, count=1)
        + code[match.end() :]
    )
