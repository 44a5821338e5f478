"""`flagsvc token` and `whoami`: the first token on the store, everything else on a server or on the store."""

from __future__ import annotations

import json
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flagsvc.cli import token_commands
from tests.command_line import Done, run_here
from tests.replicas import FLAGSVC, Process

pytestmark = pytest.mark.xdist_group("token commands")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('tokens')}/flags.db"


@pytest.fixture(scope="module")
def admin(store: str) -> Path:
    """The file of the first token, which two programs have tried to make at once."""
    path = Path(store.removeprefix("sqlite:///")).with_name("admin.token")
    command = [str(FLAGSVC), "token", "create", "admin", "--role", "admin", "--if-none", "--store", store]
    started = [subprocess.Popen([*command, "--output", str(path)], stdout=-1, stderr=-1, text=True) for _ in range(2)]
    ended = [(*process.communicate(timeout=60), process.returncode) for process in started]
    assert [status for *_, status in ended] == [0, 0], ended
    assert all("fsv_" not in out + err for out, err, _ in ended)
    return path


@pytest.fixture(scope="module")
def server(store: str, admin: Path) -> Iterator[Process]:
    with Process("--store", store, "--auth", "required") as process:
        deadline = time.monotonic() + 60
        while run_here("health", FLAGSVC_ADDRESS=process.address).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process


def run(server: Process, token: str, *arguments: str) -> Done:
    return run_here(*arguments, FLAGSVC_ADDRESS=server.address, FLAGSVC_TOKEN=token, COLUMNS="200", USER="ann")


def fields(done: Done) -> dict[str, object]:
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_the_first_token_is_made_once_into_a_file_of_its_owner(store: str, admin: Path) -> None:
    assert stat.S_IMODE(admin.stat().st_mode) == 0o600
    assert admin.read_text().startswith("fsv_first0000000_")
    assert [each.name for each in admin.parent.iterdir() if "token" in each.name] == ["admin.token"]
    other = admin.with_name("other")
    done = run_here("token", "create", "x", "--role", "admin", "--if-none", "--store", store, "--output", str(other))
    assert (done.returncode, other.exists()) == (0, False)
    assert "has, or had, a token already" in done.stdout
    assert "make another: flagsvc token create NAME --role admin" in done.stdout, "nobody may have the first one"
    command = ("token", "create", "x", "--role", "admin", "--if-none", "--output", str(admin), "--store")
    assert "make another" not in run_here(*command, store).stdout
    before, empty = admin.read_text(), f"sqlite:///{admin.with_name('empty.db')}"
    done = run_here(*command, empty)
    assert (done.returncode, admin.read_text(), fields_of_all(empty)) == (2, before, [])
    assert "the store has no token: the file is of another store" in done.stderr


def test_another_program_may_make_the_first_token_and_its_file_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("token", "create", "a", "--role", "admin", "--if-none", "--store", f"sqlite:///{tmp_path}/flags.db")
    command += ("--output", str(tmp_path / "first.token"))
    opened = token_commands._Output.__enter__

    def overtaken(output: token_commands._Output) -> token_commands._Output:
        monkeypatch.setattr(token_commands._Output, "__enter__", opened)
        assert run_here(*command).returncode == 0
        return opened(output)

    monkeypatch.setattr(token_commands._Output, "__enter__", overtaken)
    done = run_here(*command)
    assert (done.returncode, done.stdout) == (0, "another program has made the first token at this moment\n"), (
        done.stderr
    )
    assert [each.name for each in tmp_path.glob("*.token*")] == ["first.token"]


def test_the_life_of_a_token(server: Process, admin: Path) -> None:
    root = admin.read_text().strip()
    sets = ("--flag-set", "default", "--flag-set", "team-*")
    made = fields(run(server, root, "token", "create", "ci", "--role", "toggle", *sets, "--expires", "90d", "--json"))
    secret, token_id = str(made["secret"]), str(made["id"])
    me = fields(run(server, secret, "whoami", "--json"))
    assert {name: me[name] for name in ("kind", "id", "name", "role", "flagSets")} == {
        "kind": "token",
        "id": token_id,
        "name": "ci",
        "role": "toggle",
        "flagSets": ["default", "team-*"],
    }
    assert run(server, root, "create", "checkout").returncode == 0
    assert run(server, secret, "toggle", "checkout", "on").returncode == 0
    [newest, *_] = json.loads(run(server, root, "history", "checkout", "--json").stdout)
    assert (newest["actor"], newest["onBehalfOf"]) == (f"token:{token_id}", ""), "it has no right to name anybody"
    for words in (["set", "checkout", "owner=x"], ["get", "a", "--flag-set", "other"], ["status"], ["token", "list"]):
        refused = run(server, secret, *words)
        assert (refused.returncode, "(PERMISSION_DENIED)" in refused.stderr) == (1, True), words
    rotated = fields(run(server, root, "token", "rotate", token_id, "--overlap", "1d", "--json"))
    assert rotated["overlapEnds"] is not None
    for each in (secret, str(rotated["secret"])):
        assert run(server, each, "whoami").returncode == 0
    narrowed = run(server, root, "token", "update", token_id, "--role", "evaluate", "--flag-set", "other", "--json")
    assert (fields(narrowed)["role"], fields(narrowed)["flagSets"]) == ("evaluate", ["other"])
    assert run(server, secret, "evaluate", "checkout").returncode == 1
    changed = fields(run(server, root, "token", "update", token_id, "--disable", "--rate", "500/s", "--json"))
    assert (changed["state"], changed["rate"]) == ("disabled", "500/s")
    assert "(UNAUTHENTICATED)" in run(server, secret, "whoami").stderr
    revoked = run(server, root, "token", "revoke", token_id, "--wait-for", "applied")
    assert (revoked.returncode, "applied by 1 replica" in revoked.stdout) == (0, True)
    assert token_id not in run(server, root, "token", "list").stdout
    assert token_id in run(server, root, "token", "list", "--all").stdout
    again = run(server, root, "token", "update", token_id, "--enable")
    assert (again.returncode, "(TOKEN_REVOKED)" in again.stderr) == (1, True)


def test_a_token_that_is_revoked_on_the_store_is_refused_within_a_second(
    store: str, server: Process, admin: Path
) -> None:
    made = fields(run_here("token", "create", "x", "--role", "read", "--flag-set", "*", "--store", store, "--json"))
    secret = str(made["secret"])
    _until(lambda: run(server, secret, "list").returncode == 0)
    ended = run_here("token", "revoke", str(made["id"]), "--store", store, "--json")
    assert fields(ended)["state"] == "revoked"
    _until(lambda: "(UNAUTHENTICATED)" in run(server, secret, "list").stderr)


def test_an_identity_is_denied_and_allowed_on_a_server_and_on_the_store(
    store: str, server: Process, admin: Path
) -> None:
    root, who = admin.read_text().strip(), "jwt:https://login.example.com|ann"
    words = ("token", "deny", who, "--reason", "left", "--expires", "1d", "--wait-for", "applied")
    done = run(server, root, *words)
    assert (done.returncode, "applied by 1 replica" in done.stdout) == (0, True), done.stderr
    [found] = json.loads(run(server, root, "token", "denied", "--json").stdout)
    assert (found["identity"], found["state"], found["reason"]) == (who, "denied", "left")
    lifted = fields(run_here("token", "allow", who, "--store", store, "--json"))
    assert (lifted["state"], lifted["liftedBy"]) == ("allowed", "unchecked:store")
    _until(lambda: run(server, root, "token", "denied").stderr == "nobody is denied\n")
    fields(run_here("token", "deny", "certificate:dns:A.example", "--store", store, "--json"))
    _until(lambda: "certificate:dns:a.example" in run(server, root, "token", "denied").stdout)
    listed = json.loads(run_here("token", "denied", "--all", "--store", store, "--json").stdout)
    assert sorted(each["identity"] for each in listed) == ["certificate:dns:a.example", who]
    text = run(server, root, "history", "--since", "1h", "--action", "AllowIdentity").stdout
    assert (who in text, "unchecked:store" in text) == (True, True)
    assert "(DENIAL_NOT_FOUND)" in run(server, root, "token", "allow", "jwt:i|nobody").stderr


def test_whoever_sends_nothing_is_refused_and_learns_what_to_send(server: Process) -> None:
    done = run(server, "", "list")
    assert done.returncode == 1
    assert done.stderr == (
        "error: this needs a credential: send authorization: Bearer TOKEN, or x-api-key: TOKEN; for this command, put a"
        " token into a file, and the file's name into FLAGSVC_TOKEN_FILE (UNAUTHENTICATED)\n"
    )


def test_whoever_is_refused_learns_which_token_it_was_and_what_to_do(
    server: Process, store: str, tmp_path: Path
) -> None:
    path = tmp_path / "weak"
    run_here("token", "create", "x", "--role", "evaluate", "--flag-set", "a", "--store", store, "--output", str(path))
    _until(lambda: run_here("whoami", FLAGSVC_ADDRESS=server.address, FLAGSVC_TOKEN_FILE=str(path)).returncode == 0)
    done = run_here("list", FLAGSVC_ADDRESS=server.address, FLAGSVC_TOKEN_FILE=str(path))
    assert done.stderr.endswith(
        " has evaluate; flagsvc whoami shows the caller's rights, and who has the role admin can change those of a"
        " token (PERMISSION_DENIED)\n"
    )
    path.write_text("fsv_other\n")
    path.chmod(0o644)
    done = run_here("list", FLAGSVC_ADDRESS=server.address, FLAGSVC_TOKEN_FILE=str(path))
    warning, error = done.stderr.splitlines()
    assert warning == f"warning: every user of this machine can read {path}; do this: chmod 600 {path}"
    assert error.endswith("; the token is that of FLAGSVC_TOKEN_FILE (UNAUTHENTICATED)")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty; it must have a token in it, and nothing else"),
        (b"\n", "the file is empty"),
        (b"fsv_a\nfsv_b\n", "FLAGSVC_TOKEN_FILE has characters that no token has"),
        (b"fsv_a\0b", "FLAGSVC_TOKEN_FILE has characters that no token has"),
        (b"\xef\xbb\xbffsv_a", "FLAGSVC_TOKEN_FILE has characters that no token has"),
        (b"\xff\xfef\0", "cannot read the file: UnicodeDecodeError"),
    ],
)
def test_a_file_with_no_token_in_it_is_named_and_nothing_is_sent(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(content)
    done = run_here("whoami", FLAGSVC_ADDRESS="127.0.0.1:1", FLAGSVC_TOKEN_FILE=str(tmp_path / "token"))
    assert (done.returncode, words in done.stderr, "fsv_a" in done.stderr) == (2, True, False), done.stderr


def test_a_token_is_sent_in_plain_text_to_this_machine_only(admin: Path) -> None:
    remote = {"FLAGSVC_ADDRESS": "192.0.2.1:8013", "FLAGSVC_TOKEN_FILE": str(admin)}
    done = run_here("list", "--timeout", "0.1", **remote)
    assert (done.returncode, "in plain text" in done.stderr) == (2, True)
    assert admin.read_text().strip() not in done.stderr
    own_resolver = {**remote, "FLAGSVC_ADDRESS": "dns://192.0.2.53/localhost:8013"}
    assert "in plain text" in run_here("list", "--timeout", "0.1", **own_resolver).stderr, "it says where localhost is"
    done = run_here("list", "--timeout", "0.1", FLAGSVC_PLAINTEXT_TOKEN="true", **remote)
    assert (done.returncode, "in plain text" in done.stderr) == (1, False)  # it was tried


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["create", "x", "--role", "read"], "flag_sets is '0 entries'"),
        (["create", "x", "--role", "admin", "--flag-set", "default"], "the role admin is for all"),
        (["create", "x", "--role", "read", "--flag-set", "a", "--expires", "soon"], "--expires is 'soon'"),
        (["rotate", "nobody"], 'Token "nobody" not found'),
        (["update", "nobody"], "name what to change"),
        (["update", "nobody", "--rate", "0/s"], "--rate is '0/s'; it must be 1/s to 1000000/s, or default"),
        (["deny", "ann"], "identity is 'ann'; it must be jwt:ISSUER|SUBJECT"),
        (["deny", "token:x"], "tokens are revoked, not denied"),
        (["create", "x", "--role", "admin", "--if-none"], "needs --store and --output"),
    ],
)
def test_bad_input_is_named(store: str, admin: Path, words: list[str], text: str) -> None:
    done = run_here("token", *words, "--store", store)
    assert (done.returncode in (1, 2), text in done.stderr) == (True, True), done.stderr


def test_the_store_can_be_that_of_the_settings(store: str, admin: Path) -> None:
    done = run_here("token", "list", "--all", "--json", "--store", FLAGSVC_STORE_URL=store, FLAGSVC_AUTH="required")
    assert done.stdout == run_here("token", "list", "--all", "--json", "--store", store).stdout


def test_an_existing_file_is_not_replaced_and_no_token_is_made(store: str, admin: Path) -> None:
    before = len(fields_of_all(store))
    done = run_here("token", "create", "x", "--role", "admin", "--store", store, "--output", str(admin))
    assert (done.returncode, "which exists" in done.stderr) == (2, True)
    assert len(fields_of_all(store)) == before
    assert [each.name for each in admin.parent.iterdir() if "token" in each.name] == ["admin.token"]


def fields_of_all(store: str) -> list[object]:
    found: list[object] = json.loads(run_here("token", "list", "--all", "--store", store, "--json").stdout)
    return found


def _until(condition: object) -> None:
    deadline = time.monotonic() + 20
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)
