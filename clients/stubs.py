# ruff: noqa: INP001  a script
"""Writes stubs for other languages from protos/ into clients/stubs/, with each language's own well-known plugins.

Named languages must work; without names, a language whose tools are not there is passed over with a line that says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

CLIENTS = Path(__file__).resolve().parent
PROTOS = CLIENTS.parent / "protos"
SOURCES = ("flagsvc/v1/types.proto", "flagsvc/v1/flag_service.proto")
GO_MODULE = "flagsvc.stubs"
GO_PLUGINS = (
    "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12",
    "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2",
)


class Language(NamedTuple):
    """How a language's stubs are made. `tools` must be on PATH; `modules` must be importable here."""

    plugins: str
    tools: tuple[str, ...]
    modules: tuple[str, ...]
    write: Callable[[Path], None]

    def missing(self) -> list[str]:
        """Name what is not there."""
        lacking = [tool for tool in self.tools if shutil.which(tool) is None]
        return lacking + [f"Python's {module}" for module in self.modules if importlib.util.find_spec(module) is None]


def python(folder: Path) -> None:
    """Write Python stubs; what needs no pool of its own, unlike flagsvc_client's."""
    _protoc(*(f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")))


def go(folder: Path) -> None:
    """Write a Go module."""
    plugins = folder.parent / ".go-plugins"
    for plugin in GO_PLUGINS:
        _run("go", "install", plugin, GOBIN=str(plugins), GOFLAGS="")
    options = [f"M{source}={GO_MODULE}/flagsvc/v1" for source in SOURCES] + [f"module={GO_MODULE}"]
    for name in ("go", "go-grpc"):
        program = f"--plugin=protoc-gen-{name}={plugins / f'protoc-gen-{name}'}"
        _protoc(program, f"--{name}_out={folder}", *(f"--{name}_opt={option}" for option in options))
    (folder / "go.mod").write_text(f"module {GO_MODULE}\n\ngo 1.25\n")


def java(folder: Path) -> None:
    """Write Java sources; clients/java/pom.xml names the versions."""
    pom = CLIENTS / "java" / "pom.xml"
    _run("mvn", "--batch-mode", "--quiet", "--file", str(pom), f"-Dstubs.folder={folder}", "generate-sources")


def typescript(folder: Path) -> None:
    """Write TypeScript for @grpc/grpc-js; clients/typescript/package.json names the versions."""
    client = CLIENTS / "typescript"
    if not (client / "node_modules" / ".bin" / "buf").exists():
        _run("npm", "--prefix", str(client), "ci", "--ignore-scripts", "--no-audit", "--no-fund")
    _run("npm", "--prefix", str(client), "--silent", "run", "stubs")
    shutil.copytree(client / "src" / "gen", folder, dirs_exist_ok=True)


LANGUAGES = {
    "python": Language("grpcio-tools", (), ("grpc_tools",), python),
    "go": Language("protoc-gen-go, protoc-gen-go-grpc", ("go",), ("grpc_tools",), go),
    "java": Language("protobuf-maven-plugin, protoc-gen-grpc-java", ("java", "mvn"), (), java),
    "typescript": Language("ts-proto", ("node", "npm"), (), typescript),
}


def _protoc(*arguments: str) -> None:
    package = importlib.util.find_spec("grpc_tools")
    known = f"-I{Path(str(package and package.origin)).parent / '_proto'}"
    _run(sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", known, *arguments, *SOURCES)


def _run(*command: str, **environment: str) -> None:
    subprocess.run(command, check=True, env={**os.environ, **environment})  # noqa: S603  commands of this file


def main() -> int:
    """Write what was asked for; the exit code is 1 where that could not be done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=CLIENTS / "stubs", help="folder for a folder of each language")
    parser.add_argument("languages", nargs="*", metavar="LANGUAGE", help=", ".join(LANGUAGES))
    arguments = parser.parse_args()
    named = [name for words in arguments.languages for name in words.split(",") if name]
    if unknown := [name for name in named if name not in LANGUAGES]:
        parser.error(f"no such language: {', '.join(unknown)}; there are {', '.join(LANGUAGES)}")
    return max([_write(name, arguments.out.resolve() / name, needed=bool(named)) for name in named or LANGUAGES])


def _write(name: str, folder: Path, *, needed: bool) -> int:
    language = LANGUAGES[name]
    if lacking := language.missing():
        sys.stdout.write(f"{name}: {'cannot be made' if needed else 'passed over'}, missing: {', '.join(lacking)}\n")
        return int(needed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        language.write(folder)
    except subprocess.CalledProcessError as error:
        sys.stdout.write(f"{name}: failed: {error}\n")
        return 1
    sys.stdout.write(f"{name}: {folder} (with {language.plugins})\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
