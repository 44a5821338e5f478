"""The Python and TypeScript code in clients/README.md runs unchanged, except for the ports."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.providers import node_app
from tests.providers.cases import flag
from tests.providers.servers import serving
from tests.typescript import building

README = Path(__file__).parents[2] / "clients" / "README.md"


def block(language: str, beginning: str) -> str:
    """Return the only block in this language that begins with this text."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
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
