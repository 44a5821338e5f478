"""flagd's files on the command line: import, export and validate, for people and for programs."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from flagsvc.adapters.sqlite import SqliteStore
from flagsvc.cli.main import main
from flagsvc.core.json_values import compact, same
from flagsvc.core.model import FlagId, HistoryEntry

DATA = Path(__file__).parents[1] / "data"
FLAGD = sorted((DATA / "flagd").glob("*.json"))
LINES = DATA / "feature_flags.extjson.ndjson"
SETS = {"example_flags.flagd.json": "example", "example_flags.flagd.2.json": "other"}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("FLAGSVC_STORE_URL", "FLAGSVC_CACHE_URL"):
        monkeypatch.delenv(name, raising=False)
    url = f"sqlite:///{tmp_path}/flags.db"
    monkeypatch.setenv("FLAGSVC_STORE_URL", url)
    monkeypatch.setenv("USER", "ann")
    return url


@pytest.fixture
def run(store: str, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: object, status: int = 0) -> str:
        found = main([str(each) for each in arguments])
        captured = capsys.readouterr()
        assert found == status, captured
        assert "Traceback" not in captured.err
        return captured.out if status == 0 or arguments[0] == "validate" else captured.err

    return call


def definition(**fields: Any) -> dict[str, Any]:
    return {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "on", **fields}


def file(path: Path, flags: dict[str, Any], **top: Any) -> Path:
    path.write_text(json.dumps({"flags": flags, **top}, indent=1))
    return path


def history(store: str, key: str, flag_set: str = "default") -> list[HistoryEntry]:
    async def read() -> list[HistoryEntry]:
        opened = SqliteStore(store)
        try:
            return await opened.history(FlagId(flag_set, key), 50)
        finally:
            await opened.close()

    return asyncio.run(read())


@pytest.mark.parametrize("name", ["out.json", "out.yaml", "out.yml"])
@pytest.mark.parametrize("path", FLAGD, ids=lambda path: path.name)
def test_file_import_export_import_is_without_change_and_without_loss(
    run: Any, tmp_path: Path, path: Path, name: str
) -> None:
    flag_set, out = SETS.get(path.name, "default"), tmp_path / name
    created = len(json.loads(path.read_text())["flags"])
    assert f"{created} created, 0 updated, 0 unchanged" in run("import", path)
    assert f"0 created, 0 updated, {created} unchanged" in run("import", path)
    run("export", "--flag-set", flag_set, "--output", out)
    exported = json.loads(out.read_text()) if name.endswith("json") else yaml.safe_load(out.read_text())
    assert same(exported, json.loads(path.read_text()))
    assert f"0 created, 0 updated, {created} unchanged" in run("import", out)


def test_any_set_can_be_chosen(run: Any) -> None:
    run("import", FLAGD[1], "--flag-set", "mine")
    assert json.loads(run("export", "--flag-set", "mine", "--format", "flagd"))["metadata"]["flagSetId"] == "mine"
    assert json.loads(run("export", "--format", "flagd"))["flags"] == {}
    assert "flag_set" in run("export", "--flag-set", "a\nb", status=1)


def test_formats_by_name_and_by_option(run: Any, tmp_path: Path) -> None:
    run("import", LINES)
    assert len(run("export").splitlines()) == 8
    assert len(json.loads(run("export", "--format", "flagd"))["flags"]) == 8
    assert run("export", "--format", "flagd-yaml").startswith("$schema: https://flagd.dev/")
    run("export", "--output", tmp_path / "x.json", "--format", "mongoexport")
    assert "0 created, 0 updated, 8 unchanged" in run("import", tmp_path / "x.json")
    run("export", "--output", tmp_path / "x.ndjson")
    assert len((tmp_path / "x.ndjson").read_text().splitlines()) == 8
    assert (tmp_path / "x.ndjson").stat().st_mode & 0o777 == 0o644


def test_an_exported_set_of_the_existing_system_imports_without_change(run: Any, tmp_path: Path) -> None:
    run("import", LINES)
    run("export", "--output", tmp_path / "x.yaml")
    assert "0 created, 0 updated, 8 unchanged" in run("import", tmp_path / "x.yaml")


def test_an_import_keeps_what_the_file_does_not_know(run: Any, store: str, tmp_path: Path) -> None:
    run("import", LINES)
    path = file(tmp_path / "x.json", {"support-chat": definition(state="DISABLED")})
    assert "0 created, 1 updated, 0 unchanged" in run("import", path, "--reason", "because")
    [document] = [json.loads(line) for line in run("export").splitlines() if "support-chat" in line]
    assert (document["status"], document["name"], document["badge"]) == ("DISABLED", "Support Chat", "Core")
    assert document["config"]["enableWidget"] is True
    newest = history(store, "support-chat")[0]
    assert (newest.action, newest.actor, newest.reason) == ("UPDATED", "ann", "because")
    assert newest.previous == {"status": "ENABLED"}


def test_a_dry_run_shows_the_difference_and_writes_nothing(run: Any, tmp_path: Path) -> None:
    rule = {"if": [{"==": [{"var": "plan"}, "pro"]}, "on", "off"]}
    long = {"if": [{"in": [{"var": "email"}, [f"user{n}@example.com" for n in range(50)]]}, "on", "off"]}
    flags = {"a": definition(), "b": definition(targeting=rule), "c": definition(), "d": definition(targeting=long)}
    path = file(tmp_path / "x.json", flags, metadata={"team": "web"})
    assert run("import", path, "--dry-run").splitlines() == [
        "+ a: ENABLED",
        "+ b: ENABLED",
        "+ c: ENABLED",
        "+ d: ENABLED",
        "4 created, 0 updated, 0 deleted, 0 unchanged; nothing was written (--dry-run)",
    ]
    assert not (tmp_path / "flags.db").exists()
    run("import", path)
    before = json.loads(json.dumps(rule))
    rule["if"][1] = "off"
    long["if"][0]["in"][1][40] = "another@example.com"
    flags |= {"a": definition(state="DISABLED", variants={"on": True, "off": False, "x": True}), "new": definition()}
    del flags["c"]
    file(path, flags, metadata={"team": "app"})
    output = run("import", path, "--dry-run", "--prune")
    assert output.splitlines()[:8] == [
        "+ new: ENABLED",
        "~ a",
        "    status: ENABLED -> DISABLED",
        "    variants.x: - -> true",
        "    metadata.team: web -> app",
        "~ b",
        f"    targeting: {compact(before)} -> {compact(rule)}",
        "    metadata.team: web -> app",
    ]
    [shown] = re.findall(r"~ d\n    targeting: (.*)\n", output)
    assert len(shown) < 250
    assert "user40@example.com" in shown.partition(" -> ")[0]
    assert "another@example.com" in shown.partition(" -> ")[2]
    assert "- c" in output.splitlines()
    assert output.endswith("1 created, 3 updated, 1 deleted, 0 unchanged; nothing was written (--dry-run)\n")
    found = json.loads(run("import", path, "--dry-run", "--prune", "--json"))
    assert (found["dryRun"], found["flags"], found["unchanged"]) == (True, 4, 0)
    assert found["created"] == [{"flagSet": "default", "flagKey": "new"}]
    assert found["deleted"] == [{"flagSet": "default", "flagKey": "c"}]
    assert found["updated"][0]["fields"]["status"] == {"before": "ENABLED", "after": "DISABLED"}
    assert json.loads(run("export", "--format", "flagd"))["flags"].keys() == {"a", "b", "c", "d"}


def test_a_dry_run_of_mongoexport_lines_shows_the_difference_too(run: Any, tmp_path: Path) -> None:
    run("import", LINES)
    changed = tmp_path / "x.ndjson"
    changed.write_text(LINES.read_text().replace('"Support Chat"', '"Chat"'))
    output = run("import", changed, "--dry-run").splitlines()
    assert output[:2] == ["~ support-chat", "    name: Support Chat -> Chat"]
    assert output[-1].startswith("0 created, 1 updated, 0 deleted, 7 unchanged")


def test_prune_deletes_only_in_the_files_sets_and_keeps_history(run: Any, store: str, tmp_path: Path) -> None:
    for flag_set in ("one", "two"):
        run("import", file(tmp_path / "x.json", {"a": definition(), "b": definition()}), "--flag-set", flag_set)
    run("import", file(tmp_path / "x.json", {"c": definition()}))
    path = file(tmp_path / "x.json", {"a": definition()}, metadata={"flagSetId": "one"})
    assert "1 flags: 0 created, 0 updated, 1 deleted, 1 unchanged" in run("import", path, "--prune", "--reason", "gone")
    left = {s: run("export", "--flag-set", s, "--format", "flagd") for s in ("one", "two", "default")}
    assert {s: sorted(json.loads(text)["flags"]) for s, text in left.items()} == {
        "one": ["a"],
        "two": ["a", "b"],
        "default": ["c"],
    }
    newest = history(store, "b", "one")[0]
    assert (newest.action, newest.actor, newest.reason, newest.new) == ("DELETED", "ann", "gone", None)


def test_prune_with_an_empty_file_is_refused(run: Any, tmp_path: Path) -> None:
    run("import", file(tmp_path / "x.json", {"a": definition()}))
    assert "the file has no flags, so --prune is refused" in run(
        "import", file(tmp_path / "y.json", {}), "--prune", status=1
    )
    assert "0 flags: 0 created" in run("import", tmp_path / "y.json")
    assert "a" in json.loads(run("export", "--format", "flagd"))["flags"]


def test_a_bad_file_is_refused_whole_with_lines_and_paths(run: Any, tmp_path: Path) -> None:
    path = file(
        tmp_path / "x.json", {"a": definition(), "b": definition(state=True), "c": definition(defaultVariant="z")}
    )
    output = run("import", path, status=1)
    assert f"{path}: nothing was imported" in output
    assert f"{path}:12: $.flags.b.state: True; it must be" in output
    assert "$.flags.c.defaultVariant: 'z'; it must be one of the flag's variants: on, off" in output
    assert json.loads(run("export", "--format", "flagd"))["flags"] == {}


ODD_FLAGS = {
    "good": definition(),
    "operator": definition(targeting={"if": [{"var": "x"}, {"fractionalEvaluation": [["on", 1]]}, None]}),
    "reference": definition(targeting={"if": [{"$ref": "nowhere"}, "on", "off"]}),
    "weight": definition(targeting={"fractional": [["on", -1], ["off", 0.5]]}),
    "text": definition(targeting="off"),
    "mixed": definition(variants={"on": True, "n": 1, "list": ["x"], "null": None}),
    "metadata": definition(metadata={"nested": {"a": [1, None]}}),
    "nothing": {"state": "ENABLED", "variants": {}},
}


@pytest.mark.parametrize("name", ["out.json", "out.yaml", "out.ndjson"])
def test_odd_flags_are_imported_with_warnings_and_nothing_of_them_is_lost(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path, out = file(tmp_path / "x.json", ODD_FLAGS), tmp_path / name
    assert main(["import", str(path)]) == 0
    captured = capsys.readouterr()
    assert "8 created" in captured.out
    warnings = [line for line in captured.err.splitlines() if line.startswith(f"{path}:")]
    for key in ODD_FLAGS.keys() - {"good"}:
        assert any(f": warning: $.flags.{key}." in line for line in warnings), key
    assert not any("$.flags.good" in line for line in warnings)
    assert "8 unchanged" in run("import", path)
    run("export", "--output", out)
    if name != "out.ndjson":
        exported = json.loads(out.read_text()) if name.endswith("json") else yaml.safe_load(out.read_text())
        assert same(exported["flags"], ODD_FLAGS)
    assert "8 unchanged" in run("import", out)


def test_strict_refuses_odd_flags(run: Any, tmp_path: Path) -> None:
    path, lines = file(tmp_path / "x.json", ODD_FLAGS), tmp_path / "x.ndjson"
    output = run("import", path, "--strict", status=1)
    assert "$.flags.text.targeting: the rule is of type string" in output
    assert json.loads(run("export", "--format", "flagd"))["flags"] == {}
    assert "8 flags are valid, with" in run("validate", path)
    assert ": warning: " not in run("validate", path, "--strict", status=1)
    lines.write_text('{"key": "a", "variants": {"a": 1, "b": "x"}}\n')
    assert f"{lines}:1: warning: $: variants[b]: 'x'; it must be" in run("validate", lines)
    assert "variants[b]" in run("import", lines, "--strict", status=1)
    assert "1 created" in run("import", lines)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("x.json", '{"flags": {', "not JSON"),
        ("x.txt", '{\n  "$schema": "x",\n  "flags": {"a": 1}\n}', "$.flags.a"),
        ("x.json", '{"metadata": {}, "flags": []', "not JSON"),
        ("x.ndjson", '{"key": "a", "flags": {}, "status": "ON"}', "line 1: status"),
        ("x.ndjson", '{"key": "a"}\n{"flags": {}}', "line 2: key: missing"),
        ("x.yaml", "key: a\n", "$.flags: missing"),
    ],
)
def test_what_kind_of_file_it_is_is_recognised(
    run: Any, tmp_path: Path, name: str, content: str, expected: str
) -> None:
    (tmp_path / name).write_text(content)
    assert expected in run("import", tmp_path / name, status=1)


def test_validate_says_that_valid_files_are_valid(run: Any, tmp_path: Path) -> None:
    shutil.copy(FLAGD[1], tmp_path / "x.json")
    assert run("validate", tmp_path / "x.json", LINES).splitlines() == [
        f"{tmp_path}/x.json: 9 flags are valid",
        f"{LINES}: 8 flags are valid",
    ]


def test_validate_lists_every_violation_of_every_file(run: Any, tmp_path: Path) -> None:
    bad = tmp_path / "x.yaml"
    bad.write_text("flags:\n  a:\n    state: ON\n    extra: 1\n    variants: {}\n  b: 7\n")
    lines = tmp_path / "x.ndjson"
    lines.write_text('{"key": "a"}\n{"key": "b", "status": "ON"}\n')
    wanted = "an object with at least one variant, all of one type: boolean, string, number or object"
    known = "defaultVariant, description, metadata, state, targeting, variants"
    assert run("validate", bad, lines, tmp_path / "none", FLAGD[0], status=1).splitlines() == [
        f"{bad}:6: $.flags.b: an integer; a flag must be an object with `state` and `variants`",
        f'{bad}:3: warning: $.flags.a.state: \'ON\', so the flag is enabled; it must be "ENABLED" or "DISABLED"',
        f"{bad}:5: warning: $.flags.a.variants: empty; it must be {wanted}",
        f"{bad}:4: note: $.flags.a.extra: unknown property, ignored; known properties: {known}",
        f"{lines}:2: $: status: 'ON'; it must be ENABLED, DISABLED, BETA or DEPRECATED",
        f"{tmp_path}/none:0: $: cannot be read: No such file or directory",
        f"{FLAGD[0]}: 1 flag is valid",
    ]


@pytest.mark.parametrize("name", ["prerequisites", "Rollout"])
def test_a_flag_does_not_come_in_without_what_guards_it(run: Any, tmp_path: Path, name: str) -> None:
    """A file of flagd has no prerequisites and no rollout; without them the flag would be on for everybody."""
    child = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "on"}
    guarded = file(tmp_path / "x.json", {"child": {**child, name: [{"flagKey": "kill", "variants": ["on"]}]}})
    refused = f"$.flags.child.{name}: flag files do not have this field, and without it the flag has other answers"
    assert refused in run("import", guarded, status=1)
    assert refused in run("validate", guarded, status=1)
    assert "1 created" in run("import", file(tmp_path / "y.json", {"child": {**child, name: []}}))


def test_validate_for_programs(run: Any, tmp_path: Path) -> None:
    bad = file(tmp_path / "x.json", {"a": 7})
    found = [json.loads(line) for line in run("validate", bad, FLAGD[0], "--json", status=1).splitlines()]
    wrong = {"line": 3, "path": "$.flags.a", "text": "an integer; a flag must be an object with `state` and `variants`"}
    assert found == [
        {"file": str(bad), "flags": 0, "violations": [wrong], "warnings": [], "notes": []},
        {"file": str(FLAGD[0]), "flags": 1, "violations": [], "warnings": [], "notes": []},
    ]


def test_a_file_store_cannot_be_imported_into_but_exported(run: Any, tmp_path: Path) -> None:
    path = file(tmp_path / "x.json", {"a": definition()})
    assert "edit the files instead" in run("import", path, "--store", f"file:{path}", status=1)
    assert json.loads(run("export", "--store", f"file:{path}", "--format", "flagd"))["flags"] == {"a": definition()}
