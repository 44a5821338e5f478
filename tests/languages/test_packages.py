"""The packages that users install: wheels, an npm tarball, Go's and Java's samples as their own tools check them."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.languages.conftest import Say
from tests.languages.samples import EVERYTHING, GO, JAVA, Sample, run
from tests.providers.line_app import environment
from tests.typescript import building

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(900 if EVERYTHING else 120)
KIT = """
from flagsvc_client.testing import InMemoryFlagClient
from flagsvc_client import FlagClient
print(InMemoryFlagClient({'flags': {'a': {'state': 'ENABLED', 'variants': {'on': True}, 'defaultVariant': 'on'}}})
      .is_enabled('a'))
"""
JS_KIT = """
import { FlagClient } from 'flagsvc-client';
import { InMemoryFlagClient } from 'flagsvc-client/testing';
const flags = new InMemoryFlagClient({ a: true });
console.log(flags instanceof FlagClient, await flags.isEnabled('a'));
"""


def wheel(folder: Path, out: Path) -> Path:
    """Build the wheel of a project."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=100)
    [found] = out.glob("*.whl")
    return found


def test_the_wheel_of_the_python_client(tmp_path: Path) -> None:
    built = wheel(ROOT / "clients" / "python", tmp_path / "wheels")
    with zipfile.ZipFile(built) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
        [entry_points] = [archive.read(name).decode() for name in names if name.endswith("entry_points.txt")]
    assert "[pytest11]\nflagsvc = flagsvc_pytest" in entry_points
    wanted = ("py.typed", "_engine/flagd/reading.py", "testing/__init__.py", "guards/aio.py")
    assert [name for name in wanted if f"flagsvc_client/{name}" not in names] == []
    assert any(name.endswith("licenses/LICENSE") for name in names)
    light = [sys.executable, "-c", "import flagsvc_pytest, sys; print('grpc' in sys.modules)"]
    elsewhere = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(light, cwd=tmp_path, env=elsewhere, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    command = [sys.executable, "-P", "-c", KIT + "import flagsvc_client; print(flagsvc_client.__file__)"]
    done = subprocess.run(command, cwd=tmp_path, env=elsewhere, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["True", str(tmp_path / "installed" / "flagsvc_client" / "__init__.py")]


def test_the_wheel_of_the_server(tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel(ROOT, tmp_path)) as archive:
        names = archive.namelist()
    assert "flagsvc/server.py" in names
    assert [name for name in names if not name.startswith("flagsvc")] == []
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.xdist_group("typescript")
def test_the_npm_package(tmp_path: Path, say: Say) -> None:
    building.build()
    building.npm("pack", "--ignore-scripts", "--pack-destination", str(tmp_path), seconds=100)
    [package] = tmp_path.glob("flagsvc-client-*.tgz")
    with tarfile.open(package) as archive:
        names = archive.getnames()
    wanted = ("README.md", "LICENSE", "package.json", "dist/index.js", "dist/index.d.ts", "dist/testing.d.ts")
    assert [name for name in wanted if f"package/{name}" not in names] == []
    assert [name for name in names if name.startswith(("package/src", "package/test", "package/node_modules"))] == []
    if not EVERYTHING:
        say("the npm package was not installed elsewhere: `make languages` does")
        return
    npm = str(building.NODE.with_name("npm"))
    options = {"cwd": tmp_path, "env": environment(), "capture_output": True, "text": True, "timeout": 300}
    (tmp_path / "package.json").write_text('{"type": "module"}')
    install = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", str(package)]
    done = subprocess.run(install, check=False, **options)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([str(building.NODE), "--input-type=module", "--eval", JS_KIT], check=False, **options)
    assert (done.stdout, done.stderr) == ("true true\n", "")


@pytest.mark.parametrize(
    ("sample", "command"),
    [(GO, ("go", "vet", "./...")), (JAVA, ("mvn", "--batch-mode", "--quiet", "package"))],
    ids=["go", "java"],
)
def test_the_samples_as_their_own_tools_check_them(sample: Sample, command: tuple[str, ...], say: Say) -> None:
    if not EVERYTHING or (lacking := sample.lacking()):
        say(f"`{' '.join(command)}` was not run: {lacking if EVERYTHING else '`make languages` does'}")
        return
    assert run(sample, *command) is not None
