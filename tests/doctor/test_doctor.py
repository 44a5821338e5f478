"""`flagsvc doctor` against stores and caches that are set up wrongly: what fails, and the cure that it names."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pymongo
import pytest
import redis

from flagsvc.adapters.checks.mongo import RIGHTS
from flagsvc.cli.main import main
from tests.command_line import Terminal
from tests.guarded_mongod import DATABASE, GuardedMongod, documented_role
from tests.servers import HOST, Mongod, RedisServer, free_port

pytestmark = pytest.mark.xdist_group("doctor")
USERS = {
    "works": "+@all -@dangerous ~* &*",
    "nopublish": "+@all -publish ~* &*",
    "noeval": "+@all -eval ~* &*",
    "nokeys": "+@all ~flagsvc:* &*",
    "nosubscribe": "+@all -subscribe ~* &*",
    "noscan": "+@all -scan ~* &*",
}


@pytest.fixture(scope="module")
def redis_users() -> Iterator[RedisServer]:
    with RedisServer() as server:
        with redis.Redis.from_url(server.url) as direct:
            for name, rules in USERS.items():
                direct.execute_command("ACL", "SETUSER", name, "on", ">s3cret", *rules.split())
        yield server


@pytest.fixture(scope="module")
def guarded() -> Iterator[GuardedMongod]:
    with GuardedMongod() as server:
        with server.client() as client:
            client[DATABASE]["feature_flags"].create_index([("flagSet", 1), ("key", 1)], unique=True)
        yield server


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("FLAGSVC_STORE_URL", "FLAGSVC_CACHE_URL"):
        monkeypatch.delenv(name, raising=False)


class Report:
    """What one run printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
        self.status = main(["doctor", "--json", "--timeout", "1", *arguments])
        self.text = capsys.readouterr().out
        self.checks: list[dict[str, Any]] = json.loads(self.text)["checks"]

    def failed(self, subject: str) -> dict[str, dict[str, Any]]:
        """Return the failed checks of the store or the cache by name."""
        return {
            each["check"]: each for each in self.checks if (each["subject"], each["outcome"]) == (subject, "failed")
        }


def user(server: RedisServer, name: str, password: str = "s3cret") -> str:
    return server.url.replace("//", f"//{name}:{password}@")


CACHES: dict[str, tuple[Any, set[str], str]] = {
    "down": (lambda _: f"redis://{HOST}:{free_port()}/0", {"connection"}, "the connection is refused"),
    "no such host": (lambda _: "redis://no-such-host.invalid/0", {"connection"}, "the host name cannot be resolved"),
    "TLS to a server without": (
        lambda s: s.url.replace("redis:", "rediss:"),
        {"connection (TLS)"},
        "does not answer in time",
    ),
    "wrong password": (lambda s: user(s, "works", "wr0ng"), {"credentials"}, "WRONGPASS"),
    "an unknown option": (lambda s: f"{s.url}?ssl=true", {"URL"}, "unknown option 'ssl'"),
    "no right to publish": (
        lambda s: user(s, "nopublish"),
        {"every command that flagsvc runs", "publish and subscribe", "scripts"},
        "'publish' command",
    ),
    "no right to scripts": (
        lambda s: user(s, "noeval"),
        {"scripts", "every command that flagsvc runs"},
        "'eval' command",
    ),
    "no right to keys": (
        lambda s: user(s, "nokeys"),
        {"read", "write", "scripts", "transactions", "every command that flagsvc runs"},
        "permissions to access one of the keys",
    ),
    "no right to subscribe": (lambda s: user(s, "nosubscribe"), {"publish and subscribe"}, "'subscribe' command"),
    "no right to scan": (lambda s: user(s, "noscan"), {"audit"}, "'scan' command"),
}


@pytest.mark.parametrize("setup", CACHES)
def test_a_cache_that_is_set_up_wrongly(
    redis_users: RedisServer, capsys: pytest.CaptureFixture[str], setup: str
) -> None:
    url_for, checks, words = CACHES[setup]
    report = Report(capsys, "--cache", url_for(redis_users))
    failed = report.failed("cache")
    assert report.status == 1
    assert set(failed) == checks
    assert any(words in each["detail"] for each in failed.values())
    assert all(each["cure"] for each in failed.values())
    assert "s3cret" not in report.text
    assert "wr0ng" not in report.text


def test_a_cache_of_another_store(redis_users: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--store", f"mongodb://u:s3cret@{HOST}:1/shop", "--cache", redis_users.url)
    with redis.Redis.from_url(redis_users.url) as direct:
        try:
            direct.set("flagsvc:store", "0a1b mongodb://db/staging")
            report = Report(capsys, *arguments)
            assert "another store, mongodb://db/staging" in report.failed("cache")["owner"]["detail"]
            assert "FLAGSVC_CACHE_PREFIX" in report.failed("cache")["owner"]["cure"]
            assert "s3cret" not in report.text
            direct.set("flagsvc:store", "0a1b mongodb://other-host/shop")
            assert not Report(capsys, *arguments).failed("cache")
        finally:
            direct.flushall()


REFUSALS = {
    "a read-only replica": (("REPLICAOF", HOST, "1"), ("REPLICAOF", "NO", "ONE"), "READONLY", "primary"),
    "a full memory": (("CONFIG SET", "maxmemory", "1mb"), ("CONFIG SET", "maxmemory", "0"), "OOM", "maxmemory"),
}


@pytest.mark.parametrize("fault", REFUSALS)
def test_a_cache_that_refuses_writes(redis_users: RedisServer, capsys: pytest.CaptureFixture[str], fault: str) -> None:
    begin, end, words, cure = REFUSALS[fault]
    with redis.Redis.from_url(redis_users.url) as direct:
        direct.execute_command("DEBUG", "POPULATE", 5_000)
        direct.execute_command(*begin)
        try:
            report = Report(capsys, "--cache", redis_users.url)
        finally:
            direct.execute_command(*end)
            direct.flushall()
    failed = report.failed("cache")
    assert {"write", "every command that flagsvc runs"} <= set(failed)
    assert words in failed["write"]["detail"]
    assert cure in failed["write"]["cure"]
    assert "connection" not in failed


def test_what_is_set_up_well_passes_and_is_left_as_it_was(
    redis_users: RedisServer, guarded: GuardedMongod, capsys: pytest.CaptureFixture[str]
) -> None:
    with guarded.client() as client, redis.Redis.from_url(redis_users.url) as direct:
        direct.flushall()
        before = {
            name: client[DATABASE][name].estimated_document_count() for name in client[DATABASE].list_collection_names()
        }
        report = Report(capsys, "--store", guarded.url_of("least"), "--cache", user(redis_users, "works"))
        assert {each["outcome"] for each in report.checks} == {"ok"}
        assert report.status == 0
        assert direct.keys() == []
        assert before == {
            name: client[DATABASE][name].estimated_document_count() for name in client[DATABASE].list_collection_names()
        }
    assert "s3cret" not in report.text


STORES: dict[str, tuple[str, set[str], str]] = {
    "wrong password": ("", {"credentials"}, "refuses the user or the password"),
    "reader": (
        "reader",
        {"write in a transaction", "write beside a flag"},
        "no right to run findAndModify on flagsvc_revisions",
    ),
    "nostream": ("nostream", {"change stream"}, "no right to run aggregate on feature_flags"),
    "nobody": (
        "nobody",
        {"read", "linearizable read", "write in a transaction", "write beside a flag", "change stream", "indexes"},
        "no right to run find on",
    ),
}


@pytest.mark.parametrize("setup", STORES)
def test_a_mongodb_whose_user_may_not(guarded: GuardedMongod, capsys: pytest.CaptureFixture[str], setup: str) -> None:
    name, checks, words = STORES[setup]
    url = guarded.url_of(name) if name else guarded.url_of("least").replace("s3cret", "wr0ng")
    report = Report(capsys, "--store", url)
    failed = report.failed("store")
    assert report.status == 1
    assert set(failed) == checks
    assert any(words in each["detail"] for each in failed.values())
    assert all(each["cure"] for each in failed.values())
    assert "s3cret" not in report.text
    assert "wr0ng" not in report.text


def test_the_documented_rights_are_those_that_are_tried() -> None:
    documented = {
        each["resource"]["collection"]: {*each["actions"]} - {"changeStream", "listIndexes"}
        for each in documented_role()["privileges"]
    }
    assert documented == {name: {*actions.split()} for name, actions in RIGHTS.items()}


def test_each_right_that_is_missing_is_named(guarded: GuardedMongod, capsys: pytest.CaptureFixture[str]) -> None:
    role = documented_role()
    privileges = role["privileges"]
    commands = {"find": ("find",), "insert": ("insert", "findAndModify"), "remove": ("delete",)}
    commands["update"] = ("update", "findAndModify")
    with guarded.client() as client:
        try:
            for index, (name, actions) in enumerate(RIGHTS.items()):
                assert privileges[index]["resource"]["collection"] == name
                for action in actions.split():
                    less = deepcopy(privileges)
                    less[index]["actions"].remove(action)
                    less = [each for each in less if each["actions"]]
                    client[DATABASE].command("updateRole", role["createRole"], privileges=less)
                    failed = Report(capsys, "--store", guarded.url_of("least")).failed("store")
                    words = [f"no right to run {command} on {name}" for command in commands[action]]
                    assert any(each in check["detail"] for check in failed.values() for each in words), (name, action)
        finally:
            client[DATABASE].command("updateRole", role["createRole"], privileges=privileges)


def test_a_mongodb_without_replica_set(capsys: pytest.CaptureFixture[str]) -> None:
    with Mongod(replica_set=False) as server:
        report = Report(capsys, "--store", server.database_url("shop"))
        failed = report.failed("store")
        assert set(failed) == {"replica set", "write in a transaction", "write beside a flag", "change stream"}
        assert "rs.initiate()" in failed["replica set"]["cure"]
        wrong = Report(capsys, "--store", server.database_url("shop") + "?replicaSet=rs0").failed("store")
        assert "replicaSet" in wrong["connection"]["cure"]


def test_a_mongodb_that_is_down_or_refuses_what_is_written(
    mongo_database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    down = Report(capsys, "--store", f"mongodb://{HOST}:{free_port()}/shop").failed("store")
    assert "the connection is refused" in down["connection"]["detail"]
    with pymongo.MongoClient[dict[str, Any]](mongo_database_url) as client:
        database = client.get_default_database()
        database.create_collection("feature_flags", validator={"owner": {"$type": "string"}})
    failed = Report(capsys, "--store", mongo_database_url).failed("store")
    assert set(failed) == {"write in a transaction", "indexes"}
    assert "validator" in failed["write in a transaction"]["detail"]


FILES = {
    "sqlite:////no/such/folder/flags.db": ("folder", "No such file or directory"),
    "sqlite:////proc/flags.db": ("folder", ""),
    "sqlite:///broken.db": ("file", "file is not a database"),
    "sqlite:///flags.db?mode=ro": ("URL", "takes no options"),
    "file:missing.json": ("file missing.json", "No such file or directory"),
    "file:broken.json": ("file broken.json", "errors; the first in line"),
    "mongo://localhost/x": ("URL", "must be mongodb://"),
}


@pytest.mark.parametrize("url", FILES)
def test_a_file_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str], url: str) -> None:
    (tmp_path / "broken.db").write_text("this is no database" * 100)
    (tmp_path / "broken.json").write_text('{"flags": {"a": {"state": 1}}}')
    check, words = FILES[url]
    report = Report(capsys, "--store", url)
    failed = report.failed("store")
    assert report.status == 1
    assert set(failed) == {check}
    assert words in failed[check]["detail"]
    assert failed[check]["cure"]


def test_a_file_that_is_read_only(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr("sqlite3.connect", _read_only(sqlite3.connect))
    (tmp_path / "flags.db").touch()
    failed = Report(capsys, "--store", "sqlite:///flags.db").failed("store")
    assert "readonly database" in failed["file"]["detail"]


def _read_only(connect: Any) -> Any:
    """Tests may run as root, to whom every file can be written: let SQLite refuse as it does for others."""
    return lambda url, **options: connect(url.replace("mode=rw", "mode=ro"), **options)


def test_files_that_can_be_used_are_left_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Report(capsys, "--store", "sqlite:///flags.db").status == 0
    assert list(tmp_path.iterdir()) == [], "no file is made"
    assert (
        main(
            [
                "import",
                str(Path(__file__).parents[1] / "data/flagd/otel-demo.flagd.json"),
                "--store",
                "sqlite:///flags.db",
            ]
        )
        == 0
    )
    capsys.readouterr()
    report = Report(capsys, "--store", "sqlite:///flags.db")
    assert report.status == 0
    assert "it can be written" in report.text


def test_the_folder_of_a_snapshot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for name, found in (("new/snapshot", set()), ("file/snapshot", {"folder"}), ("no/such/snapshot", {"folder"})):
        monkeypatch.setenv("FLAGSVC_SNAPSHOT_FILE", str(tmp_path / name))
        assert set(Report(capsys).failed("snapshot")) == found
    assert not (tmp_path / "new").exists()


def test_people_get_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--store", "file:missing.json"]) == 1
    assert "what to do" in capsys.readouterr().out


def test_a_narrow_terminal_gets_each_failure_in_full() -> None:
    terminal = Terminal(60)
    assert terminal.run("doctor", "--store", "file:missing.json") == 1
    table, _, failure = terminal.text.partition("error: store, file missing.json: ")
    assert "…" in table
    assert failure.split()[-4:] == ["and", "the", "free", "disk"], terminal.text
