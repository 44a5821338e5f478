"""Import and export: the existing system's documents, checked whole before a single write."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flagsvc.cli.main import main
from flagsvc.core.changes import Author, create_only, put
from flagsvc.core.model import Flag

ROOT = Path(__file__).parents[2]
EIGHT = ROOT / "tests" / "data" / "feature_flags.extjson.ndjson"
GOOD = '{"key": "good", "name": "Good", "status": "ENABLED"}'


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("FLAGSVC_STORE_URL", "FLAGSVC_CACHE_URL"):
        monkeypatch.delenv(name, raising=False)
    return f"sqlite:///{tmp_path}/flags.db"


def rows(store: str, table: str = "flags") -> int:
    path = Path(store.removeprefix("sqlite:///"))
    if not path.exists():
        return 0
    connection = sqlite3.connect(path)
    count = connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]
    connection.close()
    return int(count)


def test_the_eight_real_flags_import_and_again_change_nothing(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(EIGHT), "--store", store]) == 0
    assert "8 flags: 8 created, 0 updated, 0 unchanged" in capsys.readouterr().out
    assert main(["import", str(EIGHT), "--store", store]) == 0
    assert "8 flags: 0 created, 0 updated, 8 unchanged" in capsys.readouterr().out
    assert (rows(store), rows(store, "history")) == (8, 8)


def test_canonical_extended_json_is_the_same(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    relaxed = (
        '{"key":"a","name":"A","sortOrder":3,"config":{"n":52428800,"x":2.5},'
        '"createdAt":{"$date":"2026-02-08T10:00:00Z"}}'
    )
    canonical = (
        '{"_id":{"$oid":"65c3f0a00000000000000000"},"key":"a","name":"A","sortOrder":{"$numberInt":"3"},'
        '"config":{"n":{"$numberLong":"52428800"},"x":{"$numberDouble":"2.5"}},'
        '"createdAt":{"$date":{"$numberLong":"1770544800000"}}}'
    )
    for text in (relaxed, canonical):
        (tmp_path / "f.ndjson").write_text(text)
        assert main(["import", str(tmp_path / "f.ndjson"), "--store", store, "--json"]) == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(t["created"], t["unchanged"]) for t in results] == [(1, 0), (0, 1)]


def test_export_and_import_are_inverse(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["import", str(EIGHT), "--store", store])
    out = tmp_path / "out.ndjson"
    assert main(["export", "--store", store, "--output", str(out)]) == 0
    other = f"sqlite:///{tmp_path}/other.db"
    assert main(["import", str(out), "--store", other]) == 0
    assert main(["import", str(out), "--store", store]) == 0
    assert "8 flags: 0 created, 0 updated, 8 unchanged" in capsys.readouterr().out
    again = tmp_path / "again.ndjson"
    main(["export", "--store", other, "--output", str(again)])
    assert again.read_text() == out.read_text()
    assert '"maxFileSize": 52428800,' in out.read_text()


BAD = {
    "not json": ("{", "line 2: not a JSON document"),
    "array line": ("[1]", "line 2: a list; it must be an object"),
    "duplicate field": ('{"key": "a", "key": "b"}', "line 2: not a JSON document: field 'key' appears twice"),
    "no key": ('{"name": "x"}', "line 2: key: missing"),
    "empty key": ('{"key": ""}', "line 2: key: ''"),
    "long key": (f'{{"key": "{"k" * 256}"}}', "line 2: key: "),
    "control character": ('{"key": "a\\nb"}', "line 2: key: "),
    "number as name": ('{"key": "a", "name": 7}', "line 2: name: 7; it must be a string"),
    "unknown status": ('{"key": "a", "status": "ON"}', "line 2: status: 'ON'; it must be ENABLED, DISABLED"),
    "status list": ('{"key": "a", "status": ["ENABLED"]}', "line 2: status: "),
    "broken order": ('{"key": "a", "sortOrder": 1.5}', "line 2: sortOrder: 1.5; it must be an integer"),
    "infinite order": ('{"key": "a", "sortOrder": {"$numberDouble": "Infinity"}}', "line 2: sortOrder: "),
    "huge order": ('{"key": "a", "sortOrder": 99999999999}', "line 2: sortOrder: "),
    "date as text": ('{"key": "a", "createdAt": "soon"}', "line 2: createdAt: 'soon'; it must be a date"),
    "config list": ('{"key": "a", "config": [1]}', "line 2: config: [1]; it must be an object"),
    "NaN": ('{"key": "a", "config": {"x": NaN}}', "line 2: not a JSON document"),
    "beyond 64 bit": ('{"key": "a", "config": {"x": 18446744073709551616}}', "line 2: config: "),
    "deep variant": ('{"key": "a", "variants": {"b": ' + '{"x":' * 30 + "1" + "}" * 31 + "}", "line 2: variants: "),
    "wrong default": ('{"key": "a", "defaultVariant": "x"}', "line 2: defaultVariant: 'x'"),
    "same key twice": (GOOD, "line 2: key: 'good' is also on line 1"),
    "too deep": ('{"key": "a", "config": ' + '{"x":' * 2000 + "1" + "}" * 2000 + "}", "line 2: "),
    "deep": ('{"key": "a", "config": ' + '{"x":' * 600 + "1" + "}" * 600 + "}", "line 2: "),
    "bad oid": ('{"key": "a", "_id": {"$oid": "zz"}}', "line 2: not a JSON document"),
}


@pytest.mark.parametrize(("line", "expected"), BAD.values(), ids=BAD)
def test_a_bad_file_is_refused_whole(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, expected: str
) -> None:
    file = tmp_path / "bad.ndjson"
    file.write_text(f"{GOOD}\n{line}\n")
    assert main(["import", str(file), "--store", store]) == 1
    errors = capsys.readouterr().err
    assert expected in errors
    assert "Traceback" not in errors
    assert rows(store) == 0


def test_not_utf8_and_not_there(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.ndjson"
    file.write_bytes(GOOD.encode() + b'\n{"key": "\xff"}\n')
    assert main(["import", str(file), "--store", store]) == 1
    assert "line 2: not UTF-8" in capsys.readouterr().err
    assert main(["import", str(tmp_path / "none"), "--store", store]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_every_problem_is_reported_at_once(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.ndjson"
    file.write_text('{"key": "a", "status": "ON", "sortOrder": "x"}\n{"key": "b", "name": 1}\n')
    assert main(["import", str(file), "--store", store]) == 1
    errors = capsys.readouterr().err
    assert all(part in errors for part in ("line 1: status", "line 1: sortOrder", "line 2: name"))


def test_a_json_array_is_read_too(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "array.json"
    file.write_text(f"[{GOOD}]")
    assert main(["import", str(file), "--store", store]) == 0
    assert "1 created" in capsys.readouterr().out


def test_a_store_that_cannot_be_opened_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(EIGHT), "--store", f"sqlite:///{tmp_path}/no/such/folder.db"]) == 1
    assert "cannot be used as a store" in capsys.readouterr().err
    (tmp_path / "text.db").write_text("this is no database, however long it may be" * 100)
    assert main(["import", str(EIGHT), "--store", f"sqlite:///{tmp_path}/text.db"]) == 1
    assert "cannot be used as a store" in capsys.readouterr().err


STORED = (
    '{"key": "a", "name": "A", "status": "DISABLED", "createdAt": {"$date": "2026-02-08T10:00:00Z"},'
    ' "updatedAt": {"$date": "2026-02-09T10:00:00Z"}, "disabledAt": {"$date": "2026-02-09T10:00:00Z"}}'
)


def exported(store: str, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    assert main(["export", "--store", store]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_an_import_keeps_the_times_that_only_the_server_writes(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "f.ndjson"
    file.write_text(STORED)
    main(["import", str(file), "--store", store])
    before = exported(store, capsys)
    file.write_text('{"key": "a", "name": "A", "status": "DISABLED"}')
    assert main(["import", str(file), "--store", store]) == 0
    assert "1 unchanged" in capsys.readouterr().out
    assert exported(store, capsys) == before
    file.write_text('{"key": "a", "name": "A", "status": "ENABLED"}')
    assert main(["import", str(file), "--store", store]) == 0
    after = exported(store, capsys)
    assert {name: after[name] for name in ("createdAt", "disabledAt")} == {
        name: before[name] for name in ("createdAt", "disabledAt")
    }
    assert after["enabledAt"] == after["updatedAt"] != before["updatedAt"]
    file.write_text(STORED)
    assert main(["import", str(file), "--store", store]) == 0
    again = exported(store, capsys)
    assert (again["updatedAt"], again["enabledAt"]) == (before["updatedAt"], after["enabledAt"])


def test_into_a_used_store_the_examples_are_not_imported_again(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    examples = tmp_path / "examples.ndjson"
    examples.write_text(f'{GOOD}\n{{"key": "other", "name": "Other"}}\n')
    words = ["import", str(examples), "--if-empty", "--store", store]
    assert main([*words, "--dry-run"]) == 0
    assert not Path(store.removeprefix("sqlite:///")).exists(), "a preview makes no file"
    assert main(words) == 0
    assert "2 flags: 2 created" in capsys.readouterr().out
    (tmp_path / "changed.ndjson").write_text('{"key": "good", "name": "Mine", "status": "DISABLED"}')
    main(["import", str(tmp_path / "changed.ndjson"), "--prune", "--store", store])
    assert main(words) == 0
    assert "the store has been used already; nothing was imported" in capsys.readouterr().out
    assert exported(store, capsys)["name"] == "Mine"


def test_a_store_whose_flags_were_all_deleted_stays_so(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "f.ndjson").write_text(GOOD)
    words = ["import", str(tmp_path / "f.ndjson"), "--if-empty", "--store", store]
    assert main(words) == 0
    with sqlite3.connect(store.removeprefix("sqlite:///")) as db:
        db.execute("DELETE FROM flags")
    assert main(words) == 0
    assert rows(store) == 0
    assert main([*words, "--prune"]) == 2
    assert "--if-empty never deletes" in capsys.readouterr().err


def test_a_flag_that_appears_in_between_is_left_alone() -> None:
    author = Author(datetime(2026, 11, 30, tzinfo=UTC))
    decide = create_only(put(Flag(key="a", name="example"), author))
    assert decide(Flag(key="a", name="theirs", revision=1)) is None
    assert decide(None) is not None


def test_make_run_imports_its_examples_only_once() -> None:
    [line] = [line for line in (ROOT / "Makefile").read_text().splitlines() if "flagsvc import" in line]
    assert "--if-empty" in line.split()
