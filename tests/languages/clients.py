"""The clients of `make languages`: an unmodified provider in a small program, one folder a language."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12Certificate, serialize_java_truststore
from cryptography.x509 import load_pem_x509_certificate

from tests.providers import node_app
from tests.providers.line_app import LineApp, environment
from tests.replicas import Process
from tests.servers import free_port

HERE = Path(__file__).parent
NODE = str(Path(sys.executable).with_name("node"))
CHROMIUM = shutil.which("chromium") or "chromium"
PAGE_PORTS = {"flagd-web": free_port(), "ofrep-web": free_port()}
"""Where the pages in Chromium come from; servers of these tests allow their origins."""
_BUILD_S = 3600


@dataclass(frozen=True)
class Program:
    """What runs in the folder of a language: RUN MODE HOST PORT SELECTOR ARGUMENTS; in its environment, an Access."""

    language: str
    tools: tuple[str, ...]
    build: Callable[[], None]
    run: tuple[str, ...]
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Access:
    """What a client trusts and what it shows, by its provider's own options. Files are PEM.

    `ca`: the CA of the server, which serves TLS; empty: it serves plain text.
    """

    ca: str = ""
    token: str = ""
    certificate: str = ""
    key: str = ""

    def environment(self) -> dict[str, str]:
        """Where an HTTP client has no option for the CA, its runtime has one."""
        own = {"CA": self.ca, "TOKEN": self.token, "CERTIFICATE": self.certificate, "KEY": self.key}
        runtimes = {"NODE_EXTRA_CA_CERTS": self.ca, "JAVA_TOOL_OPTIONS": java_trusts(Path(self.ca))} if self.ca else {}
        return {**own, **runtimes}


PLAIN = Access()


@dataclass(frozen=True)
class Client:
    """A provider in one mode.

    `events`: whether it reports changes. `change`: whether it sees them within seconds, reported or not. `late`:
    whether it finds a server that starts after it. `selects`: whether it sends its selector. What is false is false
    with flagd, too.
    """

    program: Program
    mode: str
    events: bool = True
    change: bool = True
    late: bool = True
    selects: bool = True

    def __str__(self) -> str:
        return f"{self.program.language}-{self.mode}"

    def lacking(self) -> str:
        """Return why it cannot be run here; empty when it can."""
        missing = [tool for tool in self.program.tools if shutil.which(tool) is None]
        return f"no {' and no '.join(missing)} on PATH" if missing else ""

    def app(self, server: Process, selector: str = "", access: Access = PLAIN) -> LineApp:
        """Return the program for a server, at the port that the provider's default names."""
        self.program.build()
        http = self.mode.startswith(("ofrep", "rest"))
        port = server.ofrep_port if http else server.sync_port if self.mode == "in-process" else server.port
        command = [*self.program.run, self.mode, "127.0.0.1", str(port), selector, *self.program.arguments]
        own = {**access.environment(), "OFREP_PORT": str(server.ofrep_port)}
        return LineApp(command, HERE / self.program.language, **own)


def java_trusts(ca: Path) -> str:
    """Return the JVM's options for an HTTP client that trusts this CA."""
    store, password = ca.with_suffix(".p12"), "changeit"
    certificate = PKCS12Certificate(load_pem_x509_certificate(ca.read_bytes()), b"ca")
    store.write_bytes(serialize_java_truststore([certificate], BestAvailableEncryption(password.encode())))
    return f"-Djavax.net.ssl.trustStore={store} -Djavax.net.ssl.trustStorePassword={password}"


def _run(folder: str, *command: str) -> None:
    options = {"cwd": HERE / folder, "env": environment(), "capture_output": True, "text": True, "timeout": _BUILD_S}
    done = subprocess.run(command, check=False, **options)
    assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"


@functools.cache
def build_go() -> None:
    _run("go", "go", "build", "-o", "build/client", ".")


@functools.cache
def build_graphs() -> None:
    _run("go", "go", "build", "-o", "build/graphs", "./graphs")


@functools.cache
def build_node() -> None:
    node_app.install(HERE / "node")


@functools.cache
def build_page() -> None:
    build_node()
    _run("node", "node_modules/.bin/esbuild", "page.mjs", "--bundle", "--outfile=build/page.js", "--log-level=warning")


@functools.cache
def build_java() -> None:
    _run("java", "mvn", "--batch-mode", "--quiet", "package")


@functools.cache
def build_rust() -> None:
    _run("rust", "cargo", "build", "--locked", "--quiet")


GO = Program("go", ("go",), build_go, ("build/client",))
SERVER = Program("node", (), build_node, (NODE, "app.mjs"))
PAGES = {
    mode: Program("node", ("chromium",), build_page, (NODE, "browser.mjs"), (CHROMIUM, str(port)))
    for mode, port in PAGE_PORTS.items()
}
JAVA = Program("java", ("java", "mvn"), build_java, ("java", "-cp", "target/classes:target/lib/*", "example.Main"))
RUST = Program("rust", ("cargo",), build_rust, ("target/debug/client",))

CLIENTS = [
    Client(GO, "rpc"),
    Client(GO, "in-process"),
    Client(GO, "ofrep", events=False),
    Client(SERVER, "rpc"),
    Client(SERVER, "in-process"),
    Client(SERVER, "ofrep", events=False),
    Client(PAGES["flagd-web"], "flagd-web", late=False, selects=False),
    Client(PAGES["ofrep-web"], "ofrep-web", late=False),
    Client(JAVA, "rpc", selects=False),
    Client(JAVA, "in-process"),
    Client(JAVA, "ofrep", events=False),
    Client(RUST, "rpc", events=False, change=False, late=False, selects=False),
    Client(RUST, "in-process", events=False, late=False),
    Client(RUST, "rest", events=False, change=False, selects=False),
]
WRAPPED = [Client(program, "multi") for program in (GO, SERVER)]
"""The SDK's own multi-provider around RPC, then OFREP."""
