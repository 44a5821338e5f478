"""`flagsvc segments`, `flagsvc segment` and `--requires` on a real server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_commands import output, run

pytestmark = pytest.mark.xdist_group("cli commands")
PRO = '{"==": [{"var": "plan"}, "pro"]}'


def test_a_segment_is_created_used_changed_listed_and_deleted(address: str, tmp_path: Path) -> None:
    made = json.loads(output(address, "segment", "create", "pays", PRO, "--description", "Who pays", "--json"))
    assert (made["rule"], made["description"], made["dryRun"]) == (json.loads(PRO), "Who pays", False)
    output(address, "create", "seg-a", "status=ENABLED", 'targeting={"if":[{"$ref":"segment:pays"},"on","off"]}')
    shown = json.loads(output(address, "segment", "get", "pays", "--json"))
    assert shown["usedBy"] == {"flags": ["seg-a"], "flagCount": 1, "segments": []}
    file = tmp_path / "rule.json"
    file.write_text('{"==": [{"var": "plan"}, "team"]}')
    planned = output(address, "segment", "set", "pays", f"@{file}", "--dry-run")
    assert planned.endswith("~ seg-a\nvalid; nothing was written (--dry-run)\n")
    done = json.loads(output(address, "segment", "set", "pays", f"@{file}", "--etag", made["etag"], "--json"))
    [changed] = done["flags"]
    assert (changed["flagKey"], changed["revision"], done["spread"]["revision"]) == (
        "seg-a",
        done["revision"],
        done["revision"],
    )
    assert json.loads(output(address, "history", "seg-a", "--json"))[0]["via"] == "segment/pays"
    heading, row = output(address, "segments").splitlines()
    assert heading.split("\t") == ["name", "rule", "description", "revision", "updated"]
    assert row.split("\t")[:3] == ["pays", '{"==": [{"var": "plan"}, "team"]}', "Who pays"]
    refused = run(address, "segment", "delete", "pays")
    assert refused.returncode == 1
    assert 'it is used by the flags "seg-a"' in refused.stderr
    output(address, "delete", "seg-a")
    assert output(address, "segment", "delete", "pays", "--dry-run").startswith("nothing uses pays")
    assert output(address, "segment", "delete", "pays") == "deleted pays\n"
    wrong = run(address, "segment", "create", "pays", "{")
    assert (wrong.returncode, "RULE is not valid JSON" in wrong.stderr) == (2, True)


def test_prerequisites_are_set_shown_checked_and_cleared(address: str) -> None:
    output(address, "create", "top-1", "status=ENABLED")
    output(address, "create", "top-2", 'variants={"eu":"a","us":"b","asia":"c"}', "defaultVariant=eu", "status=ENABLED")
    output(address, "create", "child-1", "status=ENABLED", "--requires", "top-1=on")
    arguments = "set", "child-1", "--requires", "top-1=on", "--requires", "top-2=eu,us"
    output(address, *arguments)
    wanted = [{"flagKey": "top-1", "variants": ["on"]}, {"flagKey": "top-2", "variants": ["eu", "us"]}]
    assert json.loads(output(address, "get", "child-1", "--json"))["prerequisites"] == wanted
    assert "prerequisites" in output(address, "get", "child-1")
    checked = run(address, "create", "child-2", "--requires", "top-2=moon", "--dry-run")
    assert checked.returncode == 1
    assert "must be a variant of 'top-2': asia, eu, us" in checked.stderr
    refused = run(address, "delete", "top-1", "--yes")
    assert 'prerequisite of "child-1"' in refused.stderr
    output(address, "set", "child-1", "--requires", "")
    assert "prerequisites" not in json.loads(output(address, "get", "child-1", "--json"))
    assert run(address, "set", "child-1").returncode == 2
    assert "PARENT=VARIANT" in run(address, "set", "child-1", "--requires", "top-1").stderr


def test_files_carry_segments_and_flags_are_imported_after_those_that_they_need(address: str, tmp_path: Path) -> None:
    flag_set = "--set", "imported"
    output(address, "segment", "create", "pays", PRO, *flag_set)
    output(
        address, "segment", "create", "big", '{"and":[{"$ref":"segment:pays"},{">":[{"var":"seats"},9]}]}', *flag_set
    )
    rule = 'targeting={"if":[{"$ref":"segment:big"},"on","off"]}'
    output(address, "create", "z-parent", "status=ENABLED", rule, *flag_set)
    flagd = tmp_path / "flags.json"
    output(address, "export", *flag_set, "--output", str(flagd))
    output(address, "create", "a-child", "status=ENABLED", "--requires", "z-parent=on", *flag_set)
    lines = tmp_path / "flags.ndjson"
    output(address, "export", *flag_set, "--output", str(lines))
    assert set(json.loads(flagd.read_text())["$evaluators"]) == {"segment:pays", "segment:big"}
    new = f"sqlite:///{tmp_path}/new.db"
    assert output(address, "import", str(lines), "--store", new) == "2 flags: 2 created, 0 updated, 0 unchanged\n"
    assert output(address, "import", str(lines), "--store", new) == "2 flags: 0 created, 0 updated, 2 unchanged\n"
    assert output(address, "import", str(flagd), *flag_set) == "1 flags: 0 created, 0 updated, 1 unchanged\n"
    other = "--set", "other"
    assert output(address, "import", str(flagd), *other) == "1 flags: 1 created, 0 updated, 0 unchanged\n"
    assert output(address, "segments", "-o", "name", *other) == "big\npays\n"
    changed = flagd.read_text().replace('"pro"', '"team"')
    flagd.write_text(changed)
    planned = output(address, "import", str(flagd), *other, "--dry-run")
    assert planned.startswith("~ segment pays of flag set other\n")
    assert json.loads(output(address, "import", str(flagd), *other, "--dry-run", "--json"))["segments"] == [
        {"flagSet": "other", "name": "pays", "action": "UPDATED"}
    ]
    assert output(address, "import", str(flagd), *other).startswith("1 flags: 0 created")
    evaluators = json.loads(output(address, "get", "z-parent", "--json", *other))["evaluators"]
    assert evaluators["segment:pays"] == {"==": [{"var": "plan"}, "team"]}
    output(address, "import", str(flagd), *flag_set, "--prune")
    assert output(address, "list", "-o", "name", *flag_set) == "z-parent\n"
