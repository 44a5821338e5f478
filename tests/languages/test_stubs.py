"""`make stubs` reports what it cannot generate: skipped when nothing was named, a failure when it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "clients" / "stubs.py"


def stubs(folder: Path, *languages: str) -> subprocess.CompletedProcess[str]:
    """Run it on a machine without any toolchain."""
    command = [sys.executable, "-S", str(SCRIPT), "--out", str(folder), *languages]
    return subprocess.run(command, env={"PATH": ""}, capture_output=True, text=True, timeout=20, check=False)


def test_without_names_a_language_without_tools_is_skipped(tmp_path: Path) -> None:
    done = stubs(tmp_path)
    assert (done.returncode, done.stderr, list(tmp_path.iterdir())) == (0, "", [])
    assert done.stdout.splitlines() == [
        "python: passed over, missing: Python's grpc_tools",
        "go: passed over, missing: go, Python's grpc_tools",
        "java: passed over, missing: java, mvn",
        "typescript: passed over, missing: node, npm",
    ]


def test_a_named_language_without_tools_fails(tmp_path: Path) -> None:
    done = stubs(tmp_path, "java,go")
    assert (done.returncode, done.stdout.count("cannot be made, missing: ")) == (1, 2)


def test_an_unknown_language_is_reported_with_the_known_ones(tmp_path: Path) -> None:
    done = stubs(tmp_path, "cobol")
    assert done.returncode == 2
    assert "no such language: cobol; there are python, go, java, typescript" in done.stderr
