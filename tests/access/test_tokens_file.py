"""The file of tokens: what it may say, how it is followed, and what the API does with its tokens."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from flagsvc.core.access.roles import Role
from flagsvc.core.access.token_text import digest_of, new_token
from flagsvc.core.access.tokens import Secret, Token
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import token_service_pb2 as tokens
from flagsvc.generated.flagsvc.v1 import token_service_pb2_grpc as tokens_grpc
from flagsvc.server import Server
from flagsvc.settings import Settings
from flagsvc.tokens_file.entries import BadTokensFile, line_of, tokens_in
from flagsvc.tokens_file.follow import read
from flagsvc.urls import SettingsError
from tests.access.callers import Headers, bearer, guarded, made, stored
from tests.command_line import run_here
from tests.replicas import Client

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
DIGEST = "ab" * 32
ENTRY = {"id": "ci", "sha256": DIGEST, "name": "CI", "role": "read", "flag_sets": ["default", "team-*"]}


def entry(**fields: object) -> dict[str, object]:
    return {name: value for name, value in {**ENTRY, **fields}.items() if value is not None}


def test_a_file_in_yaml_and_in_json_says_the_same() -> None:
    yaml = f"""
# who may read
- id: ci
  sha256: {DIGEST}
  name: CI
  role: read
  flag_sets: [default, team-*]
  expires: "2027-03-01T13:00:00+01:00"
"""
    expected = Token(
        id="ci",
        name="CI",
        role=Role.READ,
        flag_sets=("default", "team-*"),
        created_by="file",
        created_at=datetime(1970, 1, 1, tzinfo=UTC),
        expires_at=datetime(2027, 3, 1, 12, tzinfo=UTC),
        secrets=(Secret(DIGEST),),
    )
    assert tokens_in("t.yaml", yaml.encode()) == (expected,)
    assert tokens_in("t.json", json.dumps([entry(expires="2027-03-01T12:00:00Z")]).encode()) == (expected,)
    assert tokens_in("t.yaml", b"") == tokens_in("t.json", b" \n") == ()


def test_a_line_of_the_command_is_read_back() -> None:
    made = Token(
        id="ci",
        name='a "name": ✓',
        role=Role.WRITE,
        flag_sets=("*",),
        created_by="file",
        created_at=NOON,
        expires_at=NOON + timedelta(days=90),
        secrets=(Secret(DIGEST),),
        rate=500,
        for_others=True,
        context_headers=True,
    )
    assert tokens_in("t.yaml", line_of(made).encode()) == (made,)
    assert tokens_in("t.json", f"[{line_of(made)[2:]}]".encode()) == (made,)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"role": "boss"}, "line 6: [1].role is 'boss'; it must be one of public, evaluate, read"),
        ({"role": "admin"}, "line 7: [1].flag_sets is ['default', 'team-*']; it must be [\"*\"]: the role admin"),
        ({"sha256": "AB" * 32}, "line 4: [1].sha256 is 'a text of 64 characters'; it must be the SHA-256"),
        ({"sha256": None}, "line 3: [1].sha256 is None"),
        ({"id": "a b"}, "[1].id is 'a b'; it must be 1 to 64 letters and digits"),
        ({"id": "ok"}, "[1].id is 'ok'; it must be another one than that of [0]"),
        ({"sha256": "cd" * 32}, "[1].sha256 is"),
        ({"flag_sets": []}, "[1].flag_sets is []; it must be a flag set"),
        ({"flag_sets": ""}, "[1].flag_sets is ''; it must be a flag set"),
        ({"expires": "tomorrow"}, "[1].expires is 'tomorrow'; it must be a time with its zone"),
        ({"expires": "2027-03-01"}, "[1].expires is '2027-03-01'; it must be a time with its zone"),
        ({"expires": "1969-01-01T00:00:00Z"}, "[1].expires is"),
        ({"name": ""}, "[1].name is ''"),
        ({"rate": True}, "[1].rate is True; it must be a whole number"),
        ({"rate": -1}, "[1].rate is -1; it must be 0"),
        ({"for_others": "yes"}, "[1].for_others is 'yes'; it must be true or false"),
        ({"context_headers": 1}, "[1].context_headers is 1; it must be true or false"),
        ({"rol": "read"}, "[1].rol is 'given'; it must be left out: the fields here are id, sha256"),
    ],
)
def test_a_bad_entry_is_refused_with_line_and_field(fields: dict[str, object], text: str) -> None:
    good = entry(id="ok", sha256="cd" * 32)
    lines = ["- " + json.dumps(good), "-"] + [f"  {n}: {json.dumps(v)}" for n, v in entry(**fields).items()]
    with pytest.raises(BadTokensFile) as refused:
        tokens_in("t.yaml", "\n".join(lines).encode())
    assert text in str(refused.value)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b'{"tokens": []}', "line 1: the file is 'dict'; it must be a list of at most 10000 tokens"),
        (b"[1]", "line 1: [0] is 1; it must be an object"),
        (b"[", "line 1: "),
        (b'[{"id": "a", "id": "b"}]', "line 1: "),
        (b" " * 5_000_000, "the file has 5000000 bytes"),
    ],
)
def test_a_bad_file_is_refused(raw: bytes, text: str) -> None:
    with pytest.raises(BadTokensFile) as refused:
        tokens_in("t.json", raw)
    assert text in str(refused.value)


def test_a_bad_file_stops_the_start_with_line_and_field(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps([entry(role="boss")]))
    with pytest.raises(SettingsError, match=r"FLAGSVC_TOKENS_FILE: .*tokens.json: line 1: \[0\].role is 'boss'"):
        Server(Settings(store_url="sqlite:///never.db", auth="required", port=0, tokens_file=str(path)))
    done = run_here("doctor", FLAGSVC_STORE_URL=f"sqlite:///{tmp_path}/f.db", FLAGSVC_TOKENS_FILE=str(path))
    assert (done.returncode, "[0].role is 'boss'" in done.stdout) == (1, True), done.stdout


def test_a_file_that_everybody_can_write_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text("[]")
    path.chmod(0o666)
    with pytest.raises(BadTokensFile, match=r"every user of this machine can write it; do this: chmod o-w"):
        read(str(path))


class Served:
    """A server whose flags come from a file, and so do its tokens."""

    def __init__(self, client: Client, server: Server, path: Path, texts: dict[str, str]) -> None:
        self.client, self.server, self.path, self.texts = client, server, path, texts
        self.stub = tokens_grpc.TokenServiceStub(client.channel)

    def headers(self, name: str) -> Headers:
        return bearer(self.texts[name])

    async def write(self, *names: str, more: str = "") -> None:
        """Replace the file as an editor does, and let the server look."""
        other = self.path.with_name("new")
        other.write_text("".join(line(name, self.texts[name]) for name in names) + more)
        other.replace(self.path)
        assert self.server._tokens_file.file is not None
        await self.server._tokens_file.file.look()

    async def code(self, call: object) -> str:
        try:
            await call  # type: ignore[misc]
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
        return "OK"

    async def reads(self, name: str) -> str:
        listed = self.client.stub.ListFlags(pb.ListFlagsRequest(), metadata=self.headers(name), timeout=5)
        return (await self.code(listed)).partition(":")[0]


async def to_its_end(stream: Any) -> None:
    """Read until the stream fails."""
    while True:
        await stream.read()


def line(role: str, text: str) -> str:
    token = Token(
        id=text.split("_")[1],
        name=role,
        role=Role(role.partition(" ")[0]),
        flag_sets=("*",),
        created_by="file",
        created_at=NOON,
        secrets=(Secret(digest_of(text).hex()),),
    )
    return line_of(token)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    (tmp_path / "flags.json").write_text('{"flags": {}}')
    path = tmp_path / "tokens.yaml"
    texts = {"admin": new_token("root"), "read": new_token("reader"), "read more": new_token("another")}
    path.write_text(line("admin", texts["admin"]) + line("read", texts["read"]))
    async with guarded(f"file:{tmp_path}/flags.json", tokens_file=str(path)) as (client, server):
        yield Served(client, server, path, texts)


async def test_a_store_of_files_is_served_with_tokens_of_a_file(served: Served) -> None:
    assert [await served.reads(name) for name in ("admin", "read", "read more")] == ["OK", "OK", "UNAUTHENTICATED"]
    listed = await served.stub.ListTokens(tokens.ListTokensRequest(), metadata=served.headers("admin"))
    assert [(each.id, each.created_by) for each in listed.tokens] == [("reader", "file"), ("root", "file")]
    token = tokens.Token(name="x", role=tokens.ROLE_READ, flag_sets=["*"])
    update = tokens.UpdateTokenRequest(token=tokens.Token(id="reader", name="y"))
    update.update_mask.paths.append("name")
    in_file = 'FAILED_PRECONDITION: Token "reader" is in the file of tokens of the server (FLAGSVC_TOKENS_FILE)'
    stub, admin = served.stub, served.headers("admin")
    for call, text in (
        (stub.UpdateToken(update, metadata=admin), in_file),
        (stub.RotateToken(tokens.RotateTokenRequest(id="reader"), metadata=admin), in_file),
        (stub.RevokeToken(tokens.RevokeTokenRequest(id="reader"), metadata=admin), in_file),
        (
            stub.CreateToken(tokens.CreateTokenRequest(token=token), metadata=admin),
            "FAILED_PRECONDITION: files of flags keep no tokens",
        ),
        (
            stub.DenyIdentity(tokens.DenyIdentityRequest(identity="jwt:i|ann"), metadata=admin),
            "FAILED_PRECONDITION: files of flags keep no tokens and no denials",
        ),
    ):
        assert text in await served.code(call)


async def test_a_change_of_the_file_is_used_and_a_bad_one_is_not(served: Served) -> None:
    watch = served.client.stub.WatchFlags(pb.WatchFlagsRequest(), metadata=served.headers("read"), timeout=20)
    assert await watch.read()
    with capture_logs() as logs:
        for _ in range(2):
            await served.write("admin", "read more", more="- {\n")
        assert [await served.reads(name) for name in ("read", "read more")] == ["OK", "UNAUTHENTICATED"]
        assert [each["event"] for each in logs if each["log_level"] == "error"] == ["tokens_file_rejected"]
    [problem] = [each for each in served.server.replica.status().problems if each.name == "tokens_file_rejected"]
    assert "line 4: not YAML" in problem.detail
    assert {each.name: each.value for each in served.server._samples()}["flagsvc_tokens_file_rejected"] == 1
    await served.write("admin", "read more")
    assert [await served.reads(name) for name in ("read", "read more")] == ["UNAUTHENTICATED", "OK"]
    with pytest.raises(grpc.aio.AioRpcError, match="UNAUTHENTICATED"):
        await to_its_end(watch)
    assert "tokens_file_rejected" not in {each.name for each in served.server.replica.status().problems}
    served.path.unlink()
    assert served.server._tokens_file.file is not None
    await served.server._tokens_file.file.look()
    assert await served.reads("read more") == "OK", "a file that is gone changes nothing"


async def test_a_store_goes_before_the_file_and_a_token_it_has_revoked_stays_so(tmp_path: Path) -> None:
    store, path = f"sqlite:///{tmp_path}/flags.db", tmp_path / "tokens.yaml"
    (root, root_text), (both, both_text) = made("admin"), made("read")
    await stored(store, root, both)
    other = new_token("filed")
    path.write_text(line("write", both_text) + line("read", other))
    async with guarded(store, tokens_file=str(path)) as (client, server):
        found = Served(client, server, path, {"admin": root_text, "read": both_text, "filed": other})
        listed = await found.stub.ListTokens(tokens.ListTokensRequest(), metadata=found.headers("admin"))
        roles = {each.id: (each.role, each.created_by) for each in listed.tokens}
        assert roles[both.id] == (tokens.ROLE_READ, both.created_by)
        assert roles["filed"] == (tokens.ROLE_READ, "file")
        assert [await found.reads(name) for name in ("read", "filed")] == ["OK", "OK"]
        await found.stub.RevokeToken(tokens.RevokeTokenRequest(id=both.id), metadata=found.headers("admin"))
        assert [await found.reads(name) for name in ("read", "filed")] == ["UNAUTHENTICATED", "OK"]


def test_files_without_any_credential_are_not_served(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"FLAGSVC_TOKENS_FILE, or issuers in FLAGSVC_JWT_ISSUERS_FILE"):
        Server(Settings(store_url=f"file:{tmp_path}/flags.json", auth="required", port=0))


def test_the_command_prints_an_entry_and_keeps_the_secret(tmp_path: Path) -> None:
    words = ("token", "create", "ci", "--role", "read", "--flag-set", "default", "--expires", "90d", "--hash-only")
    done = run_here(*words, "--output", str(tmp_path / "ci.token"))
    assert (done.returncode, done.stderr) == (0, "")
    text = (tmp_path / "ci.token").read_text().strip()
    assert text not in done.stdout
    [token] = tokens_in("t.yaml", done.stdout.encode())
    assert (token.id, token.secrets[0].digest) == (text.split("_")[1], digest_of(text).hex())
    assert (token.role, token.flag_sets, token.expires_at is not None) == (Role.READ, ("default",), True)
    assert "--hash-only needs --output" in run_here(*words).stderr
