"""The file of issuers: what is valid in it, and how it is followed while the server runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from structlog.testing import capture_logs

from flagsvc.cli.main import main
from flagsvc.core.access.roles import Role
from flagsvc.issuers import issuers as issuers_module
from flagsvc.issuers.configuration import BadConfiguration, configuration
from flagsvc.issuers.issuers import Issuers
from flagsvc.urls import SettingsError
from tests.access.issuing import GITHUB, ec_key, github_claims, jwks, kubernetes_claims, signed, until

ROOT = Path(__file__).parents[2]
RULE = {"when": [{"claim": "repository", "equals": "acme/web"}], "grant": "write@web"}
ISSUER: dict[str, Any] = {
    "issuer": GITHUB,
    "audience": "flagsvc",
    "jwks": "https://issuer.example/keys",
    "rules": [RULE],
}
CERTIFICATE = {"uri": "spiffe://prod/ns/web/sa/api", "grant": "evaluate@default"}


def valid(document: Any) -> Any:
    return configuration("issuers.json", json.dumps(document).encode())


def test_yaml_and_json_mean_the_same() -> None:
    document = {"issuers": [ISSUER], "certificates": [CERTIFICATE]}
    found = configuration("issuers.yaml", yaml.safe_dump(document).encode())
    assert found == valid(document)
    assert found.issuers[0].algorithms == {"RS256", "ES256"}
    assert found.issuers[0].grant(github_claims()).role is Role.WRITE
    assert found.issuers[0].grant(github_claims("acme/web2")) is None


def test_the_file_in_the_documentation_is_valid() -> None:
    text = (ROOT / "docs/jwt.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    found = configuration("issuers.yaml", text.encode())
    assert (len(found.issuers), len(found.certificates)) == (3, 3)
    pods, jobs, people = found.issuers
    assert pods.grant(kubernetes_claims("team-a")).scope.is_all
    assert jobs.grant(github_claims()).role is Role.WRITE
    assert people.grant({"realm_access": {"roles": ["flag-admins"]}}).role is Role.ADMIN


def test_an_empty_file_gives_nobody_a_right() -> None:
    assert valid({}).issuers == valid({}).certificates == ()


def issuer(**fields: Any) -> dict[str, Any]:
    return {"issuers": [{n: v for n, v in (ISSUER | fields).items() if v is not ...}]}


def rule(**fields: Any) -> dict[str, Any]:
    return issuer(rules=[{n: v for n, v in (RULE | fields).items() if v is not ...}])


def when(**fields: Any) -> dict[str, Any]:
    return rule(when=[fields])


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "the file is .*; it must be an object"),
        ({"issuer": []}, "issuer is 'given'; it must be left out: the fields here are issuers, certificates"),
        ({"issuers": {}}, "issuers is {}; it must be a list"),
        ({"issuers": [ISSUER, ISSUER]}, r"issuers\[1\]\.issuer .* the issuer of no other entry"),
        (issuer(issuer=...), r"issuers\[0\]\.issuer is None; it must be the iss"),
        (issuer(audience=...), r"issuers\[0\]\.audience is None"),
        (issuer(audience=[]), r"audience is \[\]"),
        (issuer(audience=["a", 1]), "audience is"),
        (issuer(jwks=...), "jwks is None"),
        (issuer(jwks="http://issuer.example/keys"), "jwks is 'http://.*; it must be https://"),
        (issuer(jwks="https:///keys"), "jwks is"),
        (issuer(jwks="https://issuer.example:x/"), "jwks is"),
        (issuer(jwks="https://user:secret@issuer.example/"), r"jwks is '\(not shown"),
        (issuer(jwks="file:"), "jwks is"),
        (issuer(algorithms=["HS256"]), r"algorithms is \['HS256'\]; it must be one or more of RS256"),
        (issuer(algorithms=["none"]), "algorithms is"),
        (issuer(algorithms=[]), "algorithms is"),
        (issuer(rules=[]), "rules is '0 entries'; it must be a list of 1 to"),
        (issuer(rules=...), "rules is '0 entries'"),
        (
            issuer(rool=1),
            "rool is 'given'; it must be left out: the fields here are issuer, audience, jwks, algorithms",
        ),
        (issuer(context={"plan": ""}), "context.plan is ''"),
        (issuer(context={"": "plan"}), "context is"),
        (issuer(context=["plan"]), "context is"),
        (rule(when=[]), "when is '0 entries'; it must be a list of 1 to 20"),
        (rule(when=...), "when is"),
        (rule(grant="write"), "grant is 'write'; it must be ROLE@FLAG_SETS"),
        (rule(grant="owner@*"), "grant is 'owner@"),
        (rule(grant="write@"), "grant is '';"),
        (rule(grant="admin@web"), "grant is 'admin@web'; it must be admin@"),
        (when(claim="ref"), r"when\[0\] is \[\]; it must be a claim with one of equals, contains, prefix"),
        (when(claim="ref", equals="a", prefix="b/"), r"when\[0\] is \['equals', 'prefix'\]"),
        (when(equals="a"), "claim is None; it must be names separated by dots"),
        (when(claim="a..b", equals="a"), "claim is 'a..b'"),
        (when(claim=["a", 1], equals="a"), "claim is"),
        (when(claim="a", equals=None), "equals is None; it must be a text"),
        (when(claim="a", equals=1.5), "equals is 1.5"),
        (when(claim="a", equals=""), "equals is ''"),
        (when(claim="a", contains=1), "contains is 1; it must be a text"),
        (when(claim="a", prefix="repo:acme"), "prefix is 'repo:acme'; it must be a prefix that ends with a separator"),
        (
            {"certificates": [{"grant": "read@*"}]},
            r"certificates\[0\] is \[\]; it must be one of uri, uri_prefix and dns",
        ),
        ({"certificates": [{"uri": "a", "dns": "b", "grant": "read@*"}]}, "must be one of uri"),
        ({"certificates": [{"uri_prefix": "spiffe://prod", "grant": "read@*"}]}, "uri_prefix is"),
        ({"certificates": [{"dns": "*.example", "grant": "read@*"}]}, "dns is"),
        ({"certificates": [{"cn": "a", "grant": "read@*"}]}, "must be one of uri"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_what_is_valid(document: Any, words: str) -> None:
    with pytest.raises(BadConfiguration, match=words):
        valid(document)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b'{"issuers": [], "issuers": []}', "duplicate field"),
        (b"{", "line 1: not JSON"),
        (b" " * 1_048_577, "it must have at most 1048576"),
    ],
)
def test_what_parsers_read_in_different_ways_is_refused(raw: bytes, words: str) -> None:
    with pytest.raises(BadConfiguration, match=words):
        configuration("issuers.json", raw)


def test_a_bad_file_stops_the_start_and_names_the_setting(tmp_path: Path) -> None:
    file = tmp_path / "issuers.json"
    with pytest.raises(
        SettingsError, match=r"FLAGSVC_JWT_ISSUERS_FILE: .*issuers.json: it cannot be read: No such file"
    ):
        Issuers(str(file))
    file.write_text("{")
    with pytest.raises(SettingsError, match=r"issuers\.json: line 1: not JSON"):
        Issuers(str(file))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SettingsError, match="not a regular file"):
        Issuers(str(tmp_path / "pipe"))
    file.chmod(0o666)
    with pytest.raises(SettingsError, match=r"every user of this machine can write it; do this: chmod o-w"):
        Issuers(str(file))


async def test_the_file_is_followed_and_a_bad_one_keeps_what_was_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuers_module, "LOOK_S", 0.02)
    keys, file = tmp_path / "keys.json", tmp_path / "issuers.json"
    keys.write_bytes(jwks(k1=ec_key()))
    changed: list[int] = []
    write(file, issuer(jwks=f"file:{keys}"))
    running = Issuers(str(file), lambda: changed.append(1))
    await running.start()
    try:
        await until(lambda: all(each.keys for each in running.tokens.issuers.values()))
        token = signed(github_claims(), ec_key())
        identity = await running.tokens.verified_caller(token, "ipv4:127.0.0.1:1")
        with capture_logs() as logs:
            file.write_text('{"issuers": [{"issuer": "x"}]}')
            await until(lambda: running.file.rejected != "")
        assert [line["event"] for line in logs] == ["issuers_file_rejected"]
        assert "issuers[0].audience is None" in running.file.rejected
        assert [each.name for each in running.problems()] == ["issuers_file_rejected"]
        assert sample(running, "flagsvc_issuers_file_rejected") == 1
        assert running.tokens.known(token) is identity
        other = {"issuer": "https://other.example", "jwks": f"file:{keys}"}
        write(file, {"issuers": [issuer(jwks=f"file:{keys}")["issuers"][0], ISSUER | other]})
        await until(lambda: running.reloads == 1)
        assert (running.file.rejected, list(running.problems())) == ("", [])
        assert running.tokens.known(token) is identity, "its issuer has not changed"
        changed.clear()
        write(file, rule(grant="read@web") | {"certificates": []}, keys)
        await until(lambda: running.reloads == 2)
        assert running.tokens.known(token) is None, "its rules have changed"
        assert not running.is_current(identity)
        assert changed
        await until(lambda: all(each.keys for each in running.tokens.issuers.values()))
        assert (await running.tokens.verified_caller(token, "ipv4:127.0.0.1:1")).role is Role.READ
        write(file, {})
        await until(lambda: running.reloads == 3)
        assert running.tokens.known(token) is None, "its issuer has left"
    finally:
        await running.close()


def write(file: Path, document: dict[str, Any], keys: Path | None = None) -> None:
    """Replace the file, as Kubernetes does: by renaming."""
    for each in document.get("issuers", []) if keys else []:
        each["jwks"] = f"file:{keys}"
    new = file.with_suffix(".new")
    new.write_text(json.dumps(document))
    new.rename(file)


def sample(running: Issuers, name: str) -> float:
    return next(each.value for each in running.samples() if each.name == name)


@pytest.mark.parametrize(
    ("path", "found"),
    [("a.b", 1), (["a", "b"], 1), (["x.y", "z"], 2), ("x.y.z", None), ("a", {"b": 1}), ("a.b.c", None), ("l.0", None)],
)
def test_a_claim_is_found_by_names_of_which_a_list_may_have_dots(path: Any, found: Any) -> None:
    from flagsvc.issuers.conditions import claim_at, claim_path  # noqa: PLC0415

    claims = {"a": {"b": 1}, "x.y": {"z": 2}, "l": [1]}
    assert claim_at(claims, claim_path(path, "claim")) == found


@pytest.mark.parametrize(
    ("condition", "claims", "holds"),
    [
        ({"equals": True}, {"c": True}, True),
        ({"equals": True}, {"c": 1}, False),
        ({"equals": 1}, {"c": True}, False),
        ({"equals": 1}, {"c": 1.0}, False),
        ({"equals": "1"}, {"c": 1}, False),
        ({"equals": "a"}, {"c": ["a"]}, False),
        ({"equals": "a"}, {}, False),
        ({"contains": "a"}, {"c": ["b", "a"]}, True),
        ({"contains": "a"}, {"c": "a"}, False),
        ({"contains": "a"}, {"c": {"a": 1}}, False),
        ({"prefix": "team-"}, {"c": "team-a"}, True),
        ({"prefix": "team-"}, {"c": "Team-a"}, False),
        ({"prefix": "team-"}, {"c": ["team-a"]}, False),
    ],
)
def test_a_condition_holds_for_exactly_its_type_and_value(
    condition: dict[str, Any], claims: dict[str, Any], holds: bool
) -> None:
    found = valid(when(claim="c", **condition)).issuers[0]
    assert (found.grant(claims) is not None) is holds


def test_doctor_checks_the_file_and_the_keys_of_each_issuer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, file = tmp_path / "keys.json", tmp_path / "issuers.json"
    keys.write_bytes(jwks(k1=ec_key()))
    write(
        file, {"issuers": [ISSUER | {"jwks": f"file:{keys}"}, ISSUER | {"issuer": "https://b", "jwks": f"file:{file}"}]}
    )
    monkeypatch.setenv("FLAGSVC_JWT_ISSUERS_FILE", str(file))
    command = ["doctor", "--json", "--store", f"sqlite:///{tmp_path}/flags.db", "--cache", "none"]
    assert main(command) == 1
    found = {
        each["check"]: each for each in json.loads(capsys.readouterr().out)["checks"] if each["subject"] == "issuers"
    }
    assert found["file"]["detail"] == "2 issuers, 0 rules for client certificates"
    assert found[f"keys of {GITHUB}"]["detail"] == "1 keys: k1"
    assert found["keys of https://b"]["outcome"] == "failed"
    assert "no list `keys`" in found["keys of https://b"]["detail"]
    file.write_text('{"issuer": 1}')
    assert main(command) == 1
    assert "the fields here are issuers, certificates" in capsys.readouterr().out
