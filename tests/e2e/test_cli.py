"""The command line against a real server: output for people and for programs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command_line import Done, run_here
from tests.replicas import FLAGSVC, Process
from tests.servers import free_port

pytestmark = pytest.mark.xdist_group("cli")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    store = f"sqlite:///{tmp_path_factory.mktemp('cli')}/flags.db"
    with Process("--store", store) as process:
        deadline = time.monotonic() + 60
        while run(process.address, "health").returncode:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process


def run(address: str, *arguments: str) -> Done:
    return run_here(*arguments, FLAGSVC_ADDRESS=address, COLUMNS="200", USER="ann")


def run_process(address: str, *arguments: str) -> Done:
    environment = {**os.environ, "FLAGSVC_ADDRESS": address, "COLUMNS": "200", "USER": "ann"}
    return subprocess.run(
        [FLAGSVC, *arguments], capture_output=True, text=True, timeout=20, env=environment, check=False
    )


def output(server: Process, *arguments: str) -> str:
    done = run(server.address, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_life_of_a_flag(server: Process) -> None:
    made = json.loads(output(server, "create", "life", "name=A life", 'config={"n": 52428800, "f": 2.0}', "--json"))
    assert (made["status"], made["config"], made["etag"]) == ("DISABLED", {"n": 52428800, "f": 2.0}, '"1"')
    assert '"f": 2.0' in output(server, "get", "life", "--json")
    output(server, "toggle", "life", "on", "--reason", "go", "--etag", made["etag"])
    found = json.loads(output(server, "evaluate", "life", "--json"))
    assert list(found) == [
        *("flagKey", "value", "variant", "reason", "errorCode", "errorMessage", "enabled", "status", "metadata"),
        *("revision", "source", "ageMs"),
    ]
    assert (found["enabled"], found["status"], found["metadata"]) == (True, "ENABLED", {})
    assert (found["value"], found["variant"], found["reason"], found["errorCode"]) == (True, "on", "STATIC", None)
    output(server, "set", "life", "status=BETA", "owner=team", "sortOrder=4", 'metadata={"a": 1}', "description=words")
    shown = json.loads(output(server, "get", "life", "--json"))
    assert (shown["status"], shown["owner"], shown["sortOrder"], shown["metadata"]) == ("BETA", "team", 4, {"a": 1})
    output(server, "set", "life", "owner=")
    assert "owner" not in json.loads(output(server, "get", "life", "--json"))
    history = json.loads(output(server, "history", "life", "--json"))
    assert [(h["action"], h["actor"]) for h in history] == [
        ("UPDATED", "ann"),
        ("UPDATED", "ann"),
        ("ENABLED", "ann"),
        ("CREATED", "ann"),
    ]
    assert history[2]["reason"] == "go"
    output(server, "delete", "life")
    assert run(server.address, "get", "life").returncode == 1


def test_a_write_reports_how_far_it_has_spread(server: Process) -> None:
    made = json.loads(output(server, "create", "spread", "--json"))
    assert (made["key"], made["spread"]["reached"], made["spread"]["lagging"]) == ("spread", "APPLIED", [])
    assert made["spread"]["revision"] == made["revision"]
    [name] = made["spread"]["appliedBy"]
    said = output(server, "toggle", "spread", "on")
    assert re.fullmatch(
        rf"spread: DISABLED -> ENABLED \(revision {made['revision'] + 1}, on 1 replica, \d+ ms\)\n", said
    )
    assert f"revision {made['revision'] + 2}: applied by 1 replica ({name})" in output(
        server, "set", "spread", "owner=me", "--wait-for", "applied"
    )
    assert f"revision {made['revision'] + 3}: stored\n" in output(
        server, "toggle", "spread", "off", "--wait-for", "stored"
    )
    revision = str(made["revision"] + 3)
    assert json.loads(output(server, "get", "spread", "--min-revision", revision, "--json"))["status"] == "DISABLED"
    assert "spread" not in json.loads(output(server, "get", "spread", "--json"))
    gone = json.loads(output(server, "delete", "spread", "--json"))
    assert list(gone) == ["flagKey", "revision", "spread"]


def test_status_of_one_replica(server: Process) -> None:
    [alone] = json.loads(output(server, "status", "--json"))["replicas"]
    assert (alone["ready"], alone["lag"], alone["changeFeed"], alone["cacheUp"]) == (True, 0, "NONE", False)
    assert "\tready\tanswers\t" in output(server, "status")


def test_tables_for_people(server: Process) -> None:
    output(server, "create", "shown", "status=ENABLED", "name=[red]Shown[/red]")
    table = output(server, "list")
    assert "key" in table
    assert "[red]Shown[/red]" in table
    assert "STATIC" in output(server, "evaluate", "shown")
    assert "CREATED" in output(server, "history", "shown")
    empty = run(server.address, "list", "--flag-set", "empty")
    assert (empty.stdout, "no flags in set 'empty'" in empty.stderr) == ("", True)
    assert output(server, "health").strip() == "SERVING"


def test_context_arguments(server: Process) -> None:
    output(server, "create", "ctx", "status=ENABLED")
    arguments = ("--targeting-key", "u", "--attribute", "plan=pro", "--attribute", "age=3", "--type", "boolean")
    assert json.loads(output(server, "evaluate", "ctx", "--json", *arguments))["value"] is True
    wrong = run(server.address, "evaluate", "ctx", "--type", "string", "--json")
    assert (wrong.returncode, json.loads(wrong.stdout)["errorCode"]) == (1, "TYPE_MISMATCH")


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (("get", "nope"), 1, "not found (FLAG_NOT_FOUND)"),
        (("evaluate", ""), 1, "flag_key"),
        (("toggle", "nope", "maybe"), 2, "must be on or off"),
        (("create", "x", "status"), 2, "equals sign"),
        (("create", "x", "stauts=ENABLED"), 2, "unknown field 'stauts'"),
        (("create", "x", "status=ON"), 2, "status"),
        (("create", "x", "config={"), 2, "config is not valid JSON at character 2"),
        (("create", "x", "config=7"), 1, "flag.config"),
        (("evaluate", "x", "--context", "[]"), 2, "JSON object"),
        (("set", "nope"), 2, "name what is to change"),
        (("list", "--address", "127.0.0.1:1"), 1, "start one with: flagsvc serve"),
        (("status", "--address", "127.0.0.1:1"), 1, "start one with: flagsvc serve"),
        (("verify",), 1, "start it with --cache redis://HOST:PORT (CACHE_MISSING)"),
        (("get", "nope", "--min-revision", "-1"), 1, "min_revision is -1"),
        (("evaluate", "nope", "--min-revision", "999"), 1, "(REVISION_UNAVAILABLE)"),
        (("evaluate", "nope", "--min-revision", "new"), 2, "--min-revision"),
        (("toggle", "nope", "on", "--wait-for", "everywhere"), 2, "invalid choice"),
        (("toggle", "nope", "on", "--wait-timeout", "3"), 2, "--wait-timeout needs --wait-for"),
        (("toggle", "nope", "on", "--wait-for", "applied", "--wait-timeout", "61"), 1, "wait_timeout is '61 s'"),
        (("toggle", "nope", "on", "--wait-for", "applied", "--wait-timeout", "-1"), 1, "wait_timeout is '-1 s'"),
        (("toggle", "nope", "on", "--wait-for", "applied", "--wait-timeout", "nan"), 2, "cannot be used"),
        (("toggle", "nope", "on", "--wait-for", "applied", "--wait-timeout", "inf"), 2, "cannot be used"),
    ],
)
def test_mistakes_are_reported_without_a_traceback(
    server: Process, arguments: tuple[str, ...], status: int, expected: str
) -> None:
    done = run(server.address, *arguments)
    assert done.returncode == status, done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "printed"),
    [
        (("list",), 0, "key\tstatus\t"),
        (("get", "nope"), 1, "error: "),
        (("create", "x", "stauts=ENABLED"), 2, "error: unknown field 'stauts'"),
        (("toggle", "nope", "maybe"), 2, "usage: flagsvc toggle"),
        (("watch", "--help"), 0, "usage: flagsvc watch"),
    ],
)
def test_a_process_has_the_status_and_the_output_of_its_command(
    server: Process, arguments: tuple[str, ...], status: int, printed: str
) -> None:
    """Every other test of a command runs it in this process."""
    output(server, "create", "listed", "--reason", f"{arguments}")
    done = run_process(server.address, *arguments)
    assert done.returncode == status
    assert (done.stderr if status else done.stdout).startswith(printed)
    assert (done.stdout if status else done.stderr) == ""
    output(server, "delete", "listed")


def test_health_is_an_exit_status(server: Process) -> None:
    assert run_process(server.address, "health", "--service", "liveness").returncode == 0
    assert run(server.address, "health", "--service", "nothing").returncode == 1
    assert run(f"127.0.0.1:{free_port()}", "health").returncode == 1


def test_watch_prints_each_change_and_outlives_a_restart(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/flags.db"
    first = Process("--store", store, FLAGSVC_DRAIN_S="0")
    environment = {**os.environ, "FLAGSVC_ADDRESS": first.address}
    with subprocess.Popen([FLAGSVC, "watch", "--json"], stdout=subprocess.PIPE, text=True, env=environment) as watch:
        assert watch.stdout
        with first:
            snapshot = json.loads(watch.stdout.readline())
            assert (snapshot["type"], snapshot["flags"]) == ("snapshot", [])
            run(first.address, "create", "a")
            change = json.loads(watch.stdout.readline())
            assert (change["type"], change["flagKey"], change["revision"]) == ("change", "a", 1)
            first.terminate()
            assert first.process
            assert first.process.wait(30) == 0
        with first:
            deadline = time.monotonic() + 30
            while run(first.address, "toggle", "a", "on").returncode:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            payload = json.loads(watch.stdout.readline())
            # Where it comes back only after the toggle, the restarted server sends a snapshot.
            flag = payload["flags"][0] if payload["type"] == "snapshot" else payload["flag"]
            assert (flag["key"], flag["status"]) == ("a", "ENABLED"), payload
        watch.send_signal(2)
        assert watch.wait(30) == 0


@pytest.mark.parametrize(
    "command",
    [
        "serve",
        "evaluate",
        "toggle",
        "get",
        "list",
        "create",
        "set",
        "delete",
        "history",
        "watch",
        "status",
        "verify",
        "import",
        "export",
        "validate",
        "health",
    ],
)
def test_every_command_has_help_that_shows_examples(command: str) -> None:
    done = run_here(command, "--help")
    assert done.returncode == 0
    assert "examples:" in done.stdout
    assert f"flagsvc {command}" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "k\udcff"),
        ("evaluate", "k", "--context", '{"a":99999999999999999999999}'),
        ("evaluate", "k", "--context", '{"a":"\\ud800"}'),
        ("create", "k", "sortOrder=2147483648"),
        ("create", "k", "expiresAt=tomorrow"),
        ("create", "k", "expiresAt=2031-02-30"),
    ],
)
def test_what_cannot_be_sent_is_an_error_without_traceback(server: Process, arguments: tuple[str, ...]) -> None:
    done = run(server.address, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_an_export_writes_to_a_device_and_does_not_replace_it(server: Process, tmp_path: Path) -> None:
    pipe, target = tmp_path / "pipe", tmp_path / "target.json"
    target.write_text("{}")
    (tmp_path / "link.json").symlink_to(target)
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    for output_to in ("pipe", "link.json"):
        done = run_process("", "export", "--store", f"sqlite:///{tmp_path}/x.db", "--output", str(tmp_path / output_to))
        assert done.returncode == 0, done.stderr
    os.close(reader)
    assert pipe.is_fifo()
    assert (tmp_path / "link.json").is_symlink()
    assert "flags" in target.read_text()
