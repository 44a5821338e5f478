"""What a reader of the documents has: a checkout, programs on PATH, the server of `make run`, and some files.

Ports, addresses, folders, and the MongoDB and Redis of the text become those of this run.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from tests.certificates import Authority
from tests.documents.blocks import ROOT
from tests.documents.commands import Command
from tests.documents.snippets import Session
from tests.documents.stand_in import StandIn
from tests.providers import node_app
from tests.servers import free_port
from tests.typescript import building

PORTS = {8013: "PORT", 8014: "MANAGEMENT_PORT", 8015: "SYNC_PORT", 8016: "OFREP_PORT"}
HOSTS = r"(?:127\.0\.0\.1|localhost|flagsvc|flags\.internal|flags\.example)"
FOLDERS = re.compile(r"/(?=(?:etc/flagsvc|etc/ssl|var/run/secrets/flagsvc|var/lib/shop)/)")
FILES = Path(__file__).parent / "files"
MONGODB, REDIS = "mongodb://db:27017/app?replicaSet=rs0", "redis://redis:6379"
"""What the documents call a reader's own servers."""
_OURS = "PATH|HOME|STATE|NO_COLOR|FLAGD_PORT|FLAGSVC_(PORT|MANAGEMENT_PORT|SYNC_PORT|OFREP_PORT|ADDRESS)"
_STATE = f"declare -p | grep -Ev '^declare -([a-zA-Z]*r|[-a-zA-Z]+ ({_OURS})=)' > \"$STATE\""
_QUICK_END = {"FLAGSVC_DRAIN_S": "0", "FLAGSVC_GRACE_S": "1"}
_START_S = _COMMAND_S = 60


class Ports:
    """The four ports of a server, by the numbers that the documents have for them."""

    def __init__(self) -> None:
        self.numbers = {number: free_port() for number in PORTS}

    def environment(self) -> dict[str, str]:
        found = {f"FLAGSVC_{PORTS[number]}": str(port) for number, port in self.numbers.items()}
        return found | {"FLAGSVC_ADDRESS": f"127.0.0.1:{self.numbers[8013]}", "FLAGD_PORT": str(self.numbers[8013])}

    def put(self, text: str) -> str:
        """Return the text with these ports."""
        text = re.sub(rf"\b{HOSTS}:(801[3-6])\b", lambda match: f"127.0.0.1:{self._port(match[1])}", text)
        return re.sub(r"\b(port(?:=|: ))(801[3-6])\b", lambda match: match[1] + self._port(match[2]), text)

    def _port(self, number: str) -> str:
        return str(self.numbers[int(number)])


class Running:
    """A server that a command started."""

    def __init__(self, command: Command, shell: Callable[[str], subprocess.Popen[str]], ports: Ports) -> None:
        self.ports = ports
        self._process = shell(command.text)
        self._until_ready()

    def stop(self) -> None:
        """Press Ctrl-C, and wait for the end."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGINT)
        self._process.communicate(timeout=_START_S)

    def _until_ready(self) -> None:
        url = f"http://127.0.0.1:{self.ports.numbers[8014]}/readyz"
        direct, deadline = build_opener(ProxyHandler({})), time.monotonic() + _START_S
        while True:
            assert self._process.poll() is None, self._process.communicate()[0]
            assert time.monotonic() < deadline, f"not ready after {_START_S} s"
            try:
                direct.open(url, timeout=2).close()
            except (URLError, OSError):
                time.sleep(0.02)
            else:
                return


class World:
    """`with World(folder) as world`: a checkout and a server with the example flags, as after `make run`."""

    def __init__(self, folder: Path, mongodb: str, redis: str) -> None:
        self.folder = folder
        self._services = {MONGODB: mongodb, REDIS: redis}
        self._first, self._other = Ports(), Ports()
        self._running: dict[bool, Running] = {}
        self._session: Session | None = None
        (folder / ".venv" / "bin").mkdir(parents=True)
        self._stand_in = StandIn(folder / ".venv" / "bin")
        for name in ("Makefile", "locks", "pyproject.toml", "examples", "clients", "docs", "protos"):
            (folder / name).symlink_to(ROOT / name)
        (folder / ".venv" / ".run").touch()  # installed
        shutil.copytree(FILES, folder, dirs_exist_ok=True)
        self._put_packages()
        self._put_certificates()
        self.begin_page()

    def __enter__(self) -> Self:
        self._stand_in.__enter__()
        self.run(Command(f"flagsvc import --examples --store '{MONGODB}'", ()))
        self.run(Command("make run", ()))
        return self

    def __exit__(self, *_: object) -> None:
        self._end_session()
        for running in self._running.values():
            running.stop()
        self._stand_in.__exit__()

    @property
    def ports(self) -> Ports:
        """The ports of the server that the page uses: its own, or that of `make run`."""
        return self._other if True in self._running else self._first

    def begin_page(self) -> None:
        """Open a new terminal; a server that the last page started is stopped."""
        if own := self._running.pop(True, None):
            own.stop()
        self._end_session()
        self._token = ""
        (self.folder / ".state").write_text("")

    def session(self) -> Session:
        """Return the Python session of this page."""
        if self._session is None:
            self._session = Session(self.folder, self.environment())
        return self._session

    def _end_session(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def environment(self) -> dict[str, str]:
        """Return the environment of every program."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("FLAGSVC_", "FLAGD_", "PYTEST_"))
        }
        path = os.pathsep.join([str(self.folder / ".venv" / "bin"), str(Path(sys.executable).parent), kept["PATH"]])
        own = {"PATH": path, "HOME": str(self.folder / "home"), "STATE": str(self.folder / ".state"), "NO_COLOR": "1"}
        return kept | own | _QUICK_END | self.ports.environment()

    def put(self, text: str) -> str:
        """Return a text of the documents with the ports, servers and folders of this run."""
        for name, url in self._services.items():
            text = text.replace(name, url)
        text = re.sub(r"FLAGSVC_HOST=0\.0\.0\.0(?= FLAGSVC_AUTH=)", "FLAGSVC_HOST=127.0.0.1", text)
        return FOLDERS.sub(f"{self.folder}/", self.ports.put(text))

    def run(self, command: Command) -> None:
        """Run a command of a console block, and compare what it prints with what the page shows."""
        if command.is_server:
            self._serve(command)
            return
        process = self._shell(re.sub(r"\bID\b", self._token, self.put(command.text)))
        try:
            output, _ = process.communicate(timeout=_COMMAND_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(
                f"`{command.text}` goes on for more than {_COMMAND_S} s: {process.communicate()[0]}"
            ) from None
        if "token create" in command.text and (found := re.search(r"^id\s+(\w+)", output, re.MULTILINE)):
            self._token = found[1]
        assert process.returncode == command.status, f"`{command.text}` ended with {process.returncode}:\n{output}"
        shown = Command(command.text, tuple(self.put("\n".join(command.shown)).split("\n")) if command.shown else ())
        assert not (difference := shown.difference(output)), f"`{command.text}`: {difference}"

    def _serve(self, command: Command) -> None:
        own = "make run" not in command.text
        if before := self._running.pop(own, None):
            before.stop()
        ports = self._other if own else self._first
        text = Command(self.put(command.text), command.shown)
        self._running[own] = Running(text, lambda text: self._shell(text, ports.environment()), ports)

    def _shell(self, text: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command in the reader's shell: variables that an earlier one has set are there."""
        keep = "" if environment else _STATE  # a server that is stopped must not undo what was set since it started
        script = f'. "$STATE" 2>/dev/null\n{text}\nstatus=$?\n{keep}\nexit $status'
        return subprocess.Popen(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self.environment() | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def _put_packages(self) -> None:
        """Install flagd's and OFREP's providers, and flagsvc's client as it is, for the snippets of Node."""
        node_app.install()
        building.build()
        packages = self.folder / "node_modules"
        packages.mkdir()
        (packages / "@openfeature").symlink_to(node_app.FOLDER / "node_modules" / "@openfeature")
        (packages / "flagsvc-client").symlink_to(building.FOLDER)

    def _put_certificates(self) -> None:
        authority = Authority()
        for name in ("etc/flagsvc", "etc/ssl", "var/run/secrets/flagsvc", "var/lib/shop", "home"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        authority.sign().put(self.folder / "etc" / "flagsvc")
        client = authority.sign("client")
        for name, content in (
            ("ca.pem", authority.own.pem),
            ("client.pem", client.pem),
            ("client.key", client.key_pem),
        ):
            (self.folder / name).write_bytes(content)
        (self.folder / "etc" / "ssl" / "internal-ca.pem").write_bytes(authority.own.pem)
        for path in (self.folder / "var" / "run" / "secrets" / "flagsvc" / "token", self.folder / "home" / "ops.token"):
            path.write_text("fsv_token\n")
            path.chmod(0o600)
