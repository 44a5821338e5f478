"""The Go and Java code of README.md and clients/README.md, by `make languages`. tests/documents runs all other code."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.languages import clients
from tests.languages.conftest import Say
from tests.languages.samples import EVERYTHING, GO, JAVA, run
from tests.providers.cases import flag
from tests.providers.line_app import environment
from tests.providers.servers import serving, serving_default_ports

ROOT = Path(__file__).parents[2]
FRONT_PAGE, README = ROOT / "README.md", ROOT / "clients" / "README.md"
GO_PROGRAM = """package main

import (
{imports}
)

func main() {{
	ctx := context.Background()
{code}
}}
"""
GO_STUB = (
    *("context", "fmt", "log", "google.golang.org/grpc", "google.golang.org/grpc/credentials/insecure"),
    'flagsvc "flagsvc.stubs/flagsvc/v1',
)
GO_PROVIDER = (
    *("context", "fmt", "log", "github.com/open-feature/go-sdk/openfeature"),
    'flagd "github.com/open-feature/go-sdk-contrib/providers/flagd/pkg',
)
JAVA_MAIN = re.compile(
    r"(?<=public static void main\(String\[\] arguments\) throws Exception \{\n).*?(?=^    \}$)",
    re.MULTILINE | re.DOTALL,
)
pytestmark = pytest.mark.timeout(900 if EVERYTHING else 120)


def block(language: str, beginning: str, page: Path = README) -> str:
    """Return the only block of a page in this language that begins with this text."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    (found,) = (text for text in blocks if text.startswith(beginning))
    return found


@pytest.mark.xdist_group("default ports")
def test_go_with_its_defaults(tmp_path: Path, say: Say) -> None:
    """The program in the README of the repository, as it is, on the default ports."""
    if not EVERYTHING or shutil.which("go") is None:
        say("Go's program in README.md was not run: it needs go on PATH and `make languages`")
        return
    with serving_default_ports(tmp_path / "flags.db", [flag("checkout-v2")]):
        assert go(tmp_path, block("go", "package main", FRONT_PAGE), clients.HERE / "go") == "true <nil>\n"


@pytest.mark.parametrize(
    ("beginning", "imports", "folder"),
    [
        ("connection, err :=", GO_STUB, GO.folder),
        ("provider, err :=", GO_PROVIDER, clients.HERE / "go"),
    ],
    ids=["stub", "provider"],
)
def test_go(tmp_path: Path, say: Say, beginning: str, imports: Sequence[str], folder: Path) -> None:
    if not EVERYTHING or GO.lacking():
        say("Go's code in clients/README.md was not run: it needs go on PATH and `make languages`")
        return
    lines = "\n".join(f'\t{name}"' if " " in name else f'\t"{name}"' for name in imports)
    with serving(tmp_path / "flags.db", [flag("checkout-v2")]) as (process, _):
        code = block("go", beginning).replace("8013", str(process.port))
        assert go(tmp_path, GO_PROGRAM.format(imports=lines, code=code), folder) == "true\n"


def go(scratch: Path, program: str, folder: Path) -> str:
    (scratch / "main.go").write_text(program)
    command = ("go", "run", str(scratch / "main.go"))
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
def test_java(tmp_path: Path, say: Say) -> None:
    """Both snippets, in the place of what the sample's main does; a cold JVM on a busy machine needs longer times."""
    if not EVERYTHING or JAVA.lacking():
        say("Java's code in clients/README.md was not run: it needs java and mvn on PATH and `make languages`")
        return
    project = tmp_path / "clients" / "java"
    shutil.copytree(JAVA.folder, project, ignore=shutil.ignore_patterns("target"))
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    source = project / JAVA.source.relative_to(JAVA.folder)
    with serving(tmp_path / "flags.db", [flag("checkout-v2")]) as (process, _):
        snippets = block("java", "var channel =") + block("java", "var options =")
        patient = snippets.replace("(500, TimeUnit.MILLISECONDS)", "(20, TimeUnit.SECONDS)")
        patient = patient.replace("port(8013).build()", "port(8013).deadline(20_000).build()")
        end = "OpenFeatureAPI.getInstance().shutdown(); channel.shutdownNow();\n"
        code = patient.replace("8013", str(process.port)) + end
        source.write_text(JAVA_MAIN.sub(lambda _: code, source.read_text()))
        sample = type(JAVA)(project, source, JAVA.tools)
        output = run(sample, "mvn", "--batch-mode", "--quiet", "compile", "exec:java")
    assert output is not None
    assert re.findall(r"(true|false)$", output, re.MULTILINE) == ["true", "true"], output
