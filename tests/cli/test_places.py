"""Where commands work: profiles, the default flag set, and stores and servers for import, export and validate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flagsvc.cli import profiles
from flagsvc.cli.parser import build_parser
from tests.command_line import Done, run_here

pytestmark = pytest.mark.xdist_group("cli places")
FLAGS = {"flags": {"one": {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "on"}}}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which commands run, without a store or a server in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("FLAGSVC_STORE_URL", "FLAGSVC_ADDRESS", "FLAGSVC_CACHE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FLAGSVC_PROFILES_FILE", str(tmp_path / "profiles.json"))
    return tmp_path


def counts(done: Done) -> tuple[int, int, int, int]:
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return found["created"], found["updated"], found.get("deleted", 0), found["unchanged"]


def test_import_export_and_validate_through_a_server(address: str, here: Path) -> None:
    file, to = here / "flags.json", ("--address", address, "--set", "moved")
    content = {"flags": {**FLAGS["flags"], "two": FLAGS["flags"]["one"]}}
    file.write_text(json.dumps(content))
    preview = json.loads(run_here("import", str(file), *to, "--dry-run", "--json").stdout)
    assert [each["flagKey"] for each in preview["created"]] == ["one", "two"]
    assert counts(run_here("import", str(file), *to, "--json")) == (2, 0, 0, 0)
    assert counts(run_here("import", str(file), *to, "--json")) == (0, 0, 0, 2)
    content["flags"]["one"] = {**FLAGS["flags"]["one"], "state": "DISABLED"}
    del content["flags"]["two"]
    file.write_text(json.dumps(content))
    assert counts(run_here("import", str(file), *to, "--prune", "--json", "--reason", "less")) == (0, 1, 1, 0)
    assert "less" in run_here("history", "two", *to).stdout
    exported = run_here("export", *to, "--format", "flagd")
    assert json.loads(exported.stdout)["flags"]["one"]["state"] == "DISABLED"
    assert "already" in run_here("import", str(file), *to, "--if-empty").stdout
    assert "stored: 1 flag is valid" in run_here("validate", *to).stdout
    run_here("set", "one", *to, 'targeting={"fractional": [["on", 1], ["off", 99]]}')
    noted = run_here("validate", *to)
    assert (noted.returncode, "moved/one" in noted.stdout) == (0, True)


def test_a_dry_run_shows_what_an_import_through_a_server_writes(address: str, here: Path) -> None:
    file, to = here / "flags.ndjson", ("--address", address, "--set", "previewed")
    for key in ("one", "two"):
        run_here("create", key, *to)
    run_here("export", *to, "--output", str(file))
    run_here("set", "one", *to, "owner=a")  # which changes its times too
    run_here("toggle", "two", *to, "on")
    run_here("toggle", "two", *to, "off")
    preview = json.loads(run_here("import", str(file), *to, "--dry-run", "--json").stdout)
    [updated] = preview["updated"]
    assert (updated["flagKey"], updated["fields"]) == ("one", {"owner": {"before": "a", "after": None}})
    assert preview["unchanged"] == 1, "of `two` only times differ"
    assert counts(run_here("import", str(file), *to, "--json")) == (0, 1, 0, 1)


def test_a_file_with_another_bucketing_makes_it_through_a_server(address: str, here: Path) -> None:
    file, to = here / "flags.json", ("--address", address, "--set", "new-bucketing")
    split = {**FLAGS["flags"]["one"], "targeting": {"fractional": [["on", 1], ["off", 1]]}}
    file.write_text(json.dumps({"flags": {"one": split}}))
    run_here("import", str(file), *to)
    run_here("bucketing", "3", "--force", *to)
    exported = here / "out.json"
    run_here("export", *to, "--output", str(exported))
    other = ("--address", address, "--set", "copied")
    assert run_here("import", str(exported), *other).returncode == 0
    assert "bucketing\t3" in run_here("bucketing", *other).stdout


@pytest.mark.parametrize("command", [("export",), ("import", "flags.json"), ("import", "flags.json", "--dry-run")])
def test_no_store_is_made_that_nobody_named(here: Path, command: tuple[str, ...]) -> None:
    (here / "flags.json").write_text(json.dumps(FLAGS))
    done = run_here(*command, FLAGSVC_PORT="1", FLAGSVC_HOST="127.0.0.1")
    assert (done.returncode, "or name a store: --store URL" in done.stderr) == (1, True)
    assert [each.name for each in here.iterdir()] == ["flags.json"]
    assert run_here("validate").returncode == 2
    both = run_here(*command, "--store", "sqlite:///x.db", "--address", "127.0.0.1:1")
    assert (both.returncode, "leave one out" in both.stderr) == (2, True)


def test_the_store_of_the_environment_counts_as_named(here: Path) -> None:
    (here / "flags.json").write_text(json.dumps(FLAGS))
    url = f"sqlite:///{here}/named.db"
    assert counts(run_here("import", "flags.json", "--json", FLAGSVC_STORE_URL=url)) == (1, 0, 0, 0)
    assert json.loads(run_here("export", "--format", "flagd", FLAGSVC_STORE_URL=url).stdout)["flags"].keys() == {"one"}
    assert run_here("validate", "--store", url).stdout == "stored: 1 flag is valid\n"
    missing = run_here("export", "--format", "flagd", "--store", f"sqlite:///{here}/missing.db")
    assert (json.loads(missing.stdout)["flags"], (here / "missing.db").exists()) == ({}, False)


def test_a_profile_is_a_server_with_its_flag_set(address: str, here: Path) -> None:
    added = run_here("profile", "add", "prod", "--address", address, "--set", "of-profile")
    assert added.stdout == "profile prod added; current is prod\n"
    run_here("profile", "add", "dead", "--address", "127.0.0.1:1")
    assert run_here("create", "by-profile").returncode == 0
    assert run_here("list", "-o", "name").stdout == "by-profile\n"
    assert run_here("list", "-o", "name", "--address", address, "--set", "of-profile").stdout == "by-profile\n"
    assert run_here("list", "--profile", "dead").returncode == 1
    assert run_here("list", FLAGSVC_PROFILE="dead").returncode == 1
    assert run_here("profile", "use", "dead").returncode == 0
    assert run_here("list").returncode == 1
    rows = [line.split("\t")[:3] for line in run_here("profile", "list").stdout.splitlines()[1:]]
    assert rows == [["dead", "yes", "127.0.0.1:1"], ["prod", "-", address]]
    assert run_here("profile", "remove", "dead").returncode == 0
    misspelled = run_here("list", "--profile", "prd")
    assert (misspelled.returncode, "did you mean prod?" in misspelled.stderr) == (2, True)
    assert run_here("list", "--profile", "prod", "--address", address).returncode == 2


def applied(arguments: tuple[str, ...], **environment: str) -> dict[str, str]:
    """Return the environment of a command after its profile was applied."""
    profiles.apply(build_parser().parse_args(arguments), environment)
    return environment


def test_a_token_goes_only_to_the_server_of_its_profile(here: Path) -> None:
    file = str(here / "profiles.json")
    run_here(
        "profile", "add", "prod", "--address", "flags.example:8013", "--token-file", "ops.token", "--tls-ca", "ca.pem"
    )
    kept = {"FLAGSVC_PROFILES_FILE": file, "FLAGSVC_TOKEN": "other", "FLAGSVC_TLS_NAME": "other"}
    whole = applied(("list",), **kept)
    assert whole == {
        "FLAGSVC_PROFILES_FILE": file,
        "FLAGSVC_ADDRESS": "flags.example:8013",
        "FLAGSVC_TOKEN_FILE": str(here / "ops.token"),
        "FLAGSVC_TLS_CA": str(here / "ca.pem"),
    }
    for elsewhere in (("list", "--address", "127.0.0.1:1"), ("token", "list", "--store", "sqlite:///x.db")):
        assert applied(elsewhere, **kept) == kept
    assert applied(("list",), **kept, FLAGSVC_ADDRESS="127.0.0.1:1")["FLAGSVC_TOKEN"] == "other"
    assert "other" not in Path(file).read_text(), "a profile has no secret"


def test_a_broken_file_of_profiles_is_named(here: Path) -> None:
    (here / "profiles.json").write_text("{")
    done = run_here("list")
    assert (done.returncode, "profiles.json: no file of profiles" in done.stderr) == (2, True)
    assert run_here("health", "--address", "127.0.0.1:1").returncode == 1, "who names an address needs none"


def test_a_user_without_a_home_has_no_profiles_and_needs_none(
    address: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_CONFIG_HOME", "FLAGSVC_PROFILES_FILE"):
        monkeypatch.delenv(name, raising=False)
    port = address.rpartition(":")[2]
    assert run_here("health", "--port", port).stdout == "SERVING\n"
    assert "set HOME" in run_here("profile", "add", "a", "--address", address).stderr
    (here / "file").write_text("")
    assert run_here("profile", "list", XDG_CONFIG_HOME=str(here / "file")).returncode == 0


def test_the_default_flag_set_is_a_variable(address: str, here: Path) -> None:
    to = {"FLAGSVC_ADDRESS": address, "FLAGSVC_FLAG_SET": "by-variable"}
    assert run_here("create", "v", **to).returncode == 0
    assert run_here("list", "-o", "name", **to).stdout == "v\n"
    assert run_here("history", "v", **to).stdout.count("CREATED") == 1
    assert run_here("get", "v", FLAGSVC_ADDRESS=address).returncode == 1
