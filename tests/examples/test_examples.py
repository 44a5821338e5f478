"""The examples, each run as a user runs it: as a program, against a server with the flags of `make run`."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from flagsvc_client import FlagClient

from tests.replicas import FLAGSVC, Process
from tests.servers import free_port

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with the example flags."""
    store = f"sqlite:///{tmp_path_factory.mktemp('examples')}/flags.db"
    subprocess.run([FLAGSVC, "import", "--examples", "--store", store], check=True, capture_output=True)
    with Process("--store", store, "--cache", "none") as server:
        with grpc.insecure_channel(server.address) as channel:
            grpc.channel_ready_future(channel).result(timeout=30)
        yield server.address


@pytest.fixture
def flags(target: str) -> Iterator[FlagClient]:
    with FlagClient(target, timeout_s=5) as client:
        yield client
        client.toggle("checkout-v2", enabled=True)


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments], check=False, capture_output=True, text=True, timeout=60
    )


@contextmanager
def running(name: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, EXAMPLES / name, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.02)


def test_a_guarded_service(target: str, flags: FlagClient) -> None:
    done = run("guarded_service.py", "--target", target)
    assert (done.returncode, done.stderr) == (0, "")
    on, off, again = done.stdout.splitlines()
    assert on == again == "checkout-v2 is on: paid 10 EUR"
    assert off.startswith(
        'checkout-v2 is off: PERMISSION_DENIED: Feature "checkout-v2" is not enabled (FEATURE_DISABLED'
    )
    assert flags.is_enabled("checkout-v2")


def test_a_fastapi_backend(target: str, flags: FlagClient) -> None:
    port = free_port()

    def get(path: str) -> httpx.Response | None:
        try:
            return httpx.get(f"http://127.0.0.1:{port}{path}", headers={"x-user": "ada"})
        except httpx.TransportError:
            return None

    def status() -> int:
        answer = get("/checkout")
        return answer.status_code if answer else 0

    with running("fastapi_backend.py", "--target", target, "--port", str(port)) as backend:
        until(lambda: status() == 200)
        banner = get("/banner")
        assert banner is not None
        assert banner.json() == {"banner": "Welcome"}
        flags.toggle("checkout-v2", enabled=False)
        until(lambda: status() == 403)
        refused = get("/checkout")
        assert refused is not None
        assert refused.json() == {
            "detail": 'Feature "checkout-v2" is not enabled',
            "code": "FEATURE_DISABLED",
            "feature": "checkout-v2",
            "status": "DISABLED",
        }
        backend.send_signal(signal.SIGINT)
        assert backend.stdout
        output = backend.stdout.read()
        assert "Traceback" not in output
        backend.wait(20)


def test_a_batch_job_twice_with_the_same_choice(target: str) -> None:
    first, second = run("batch_job.py", "--target", target), run("batch_job.py", "--target", target)
    for done in (first, second):
        assert (done.returncode, done.stderr) == (0, "")
        assert "20,000 of 20,000 users" in done.stdout
        assert "free: off for 15,000 (TARGETING_MATCH)" in done.stdout
    chosen = [re.findall(r"paid: on for ([\d,]+) ", done.stdout) for done in (first, second)]
    assert chosen[0] == chosen[1]
    assert 2_300 < int(chosen[0][0].replace(",", "")) < 2_700


def test_a_kill_switch(target: str, flags: FlagClient) -> None:
    with running("kill_switch.py", "--target", target) as worker:
        assert worker.stdout
        assert worker.stdout.readline() == "step 1\n"
        flags.toggle("dark-mode", enabled=True)
        assert worker.stdout.readline() == "step 2\n"
        flags.toggle("checkout-v2", enabled=False)
        rest = worker.stdout.read().splitlines()
        assert worker.wait(20) == 0
        assert rest[-2] == "checkout-v2 is off"
        assert re.fullmatch(r"stopped after step \d+: clean up here", rest[-1])


@pytest.mark.parametrize("name", ["guarded_service.py", "batch_job.py"])
def test_without_a_server_they_print_what_to_do(name: str) -> None:
    done = run(name, "--target", f"127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert "start the server with `make run`" in done.stderr
    assert "Traceback" not in done.stderr
