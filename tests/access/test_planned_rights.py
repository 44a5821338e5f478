"""Rights of who planned a change, when it is due: today's rules for the claims and names that were kept."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flagsvc.access.planned_rights import PlannedRights
from flagsvc.core.access.denials import Denial
from flagsvc.core.access.records import Record
from flagsvc.core.access.roles import Role
from flagsvc.core.errors import AccessUnknown, PermissionDenied
from flagsvc.core.schedules.model import Creator
from flagsvc.issuers.issuers import Issuers, configuration_in
from flagsvc.replica import Replica
from flagsvc.settings import Settings
from tests.access.callers import made
from tests.access.issuing import AUDIENCE, GITLAB, ec_key, gitlab_claims, jwks, signed

KEY = ec_key()
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
API = "spiffe://prod/ns/web/sa/api"
CREW = {"claim": "groups_direct", "contains": "acme/flag-admins"}


def write(folder: Path, *, grant: str = "write@default", **condition: Any) -> None:
    """Write the file of issuers."""
    rule = {"when": [condition or CREW], "grant": grant}
    issuer = {"issuer": GITLAB, "audience": AUDIENCE, "jwks": f"file:{folder}/keys.json", "rules": [rule]}
    document = {"issuers": [issuer], "certificates": [{"uri": API, "grant": grant}]}
    (folder / "issuers.json").write_text(json.dumps(document))


@pytest.fixture
async def issuers(tmp_path: Path) -> AsyncIterator[Issuers]:
    (tmp_path / "keys.json").write_bytes(jwks(k1=KEY))
    write(tmp_path)
    found = Issuers(str(tmp_path / "issuers.json"))
    await found.start()
    yield found
    await found.close()


async def jwt_creator(issuers: Issuers) -> Creator:
    token = signed(gitlab_claims(groups_direct=["acme/flag-admins", "acme/all"]), KEY)
    await issuers.verify(token, "peer")
    caller = issuers.known(token)
    assert caller is not None
    return Creator(caller.kind.value, caller.id, json.loads(json.dumps(issuers.evidence(caller))))


async def test_of_a_jwt_the_claims_that_rules_ask_for_are_kept_and_judged_by_the_rules_of_now(
    issuers: Issuers, tmp_path: Path
) -> None:
    creator = await jwt_creator(issuers)
    assert creator.evidence == {
        "names": [creator.id],
        "issuer": GITLAB,
        "claims": {"groups_direct": ["acme/flag-admins", "acme/all"]},
    }

    async def granted(**rules: Any) -> Role | None:
        write(tmp_path, **rules)
        await issuers._use(configuration_in(str(tmp_path / "issuers.json")))
        found = issuers.granted(creator.kind, creator.id, creator.evidence)
        return found.role if found is not None else None

    assert await granted() is Role.WRITE
    assert await granted(grant="read@default") is Role.READ
    assert await granted(claim="groups_direct", contains="acme/all") is Role.WRITE
    assert await granted(claim="groups_direct", contains="acme/others") is None
    assert await granted(claim="project_path", equals="acme/web") is None, "what was not kept satisfies nothing"
    issuers.tokens.issuers = {}
    assert issuers.granted(creator.kind, creator.id, creator.evidence) is None


async def test_of_a_certificate_its_name_is_judged_by_the_rules_of_now(issuers: Issuers) -> None:
    found = issuers.granted("certificate", f"uri:{API}", {"names": [f"uri:{API}"]})
    assert found is not None
    assert found.role is Role.WRITE
    issuers.certificates.replace_rules(())
    assert issuers.granted("certificate", f"uri:{API}", {}) is None


async def test_denials_of_any_of_its_names_count_and_lifted_ones_do_not(issuers: Issuers, tmp_path: Path) -> None:
    rights, _ = rights_of(tmp_path)
    access = rights._access
    assert access is not None
    access.recognize(issuers)
    access.view.revision = 1
    access._changed()
    creator = Creator("certificate", f"uri:{API}", {"names": [f"uri:{API}", "dns:api.example"]})
    denial = Denial(name="certificate:dns:api.example", reason="", denied_by="a", denied_at=NOW - timedelta(days=1))
    assert set(creator.record_ids) > {denial.id}
    rights.check(creator, {}, "default", NOW)
    with pytest.raises(PermissionDenied, match="is denied"):
        rights.check(creator, {denial.id: denial}, "default", NOW)
    lifted = replace(denial, lifted_by="a", lifted_at=NOW)
    rights.check(creator, {denial.id: lifted}, "default", NOW)
    access.view.denials.apply(denial)
    with pytest.raises(PermissionDenied, match="is denied"):
        rights.check(creator, {}, "default", NOW)
    with pytest.raises(AccessUnknown):
        rights.check(creator, {denial.id: lifted}, "default", NOW)
    with pytest.raises(PermissionDenied, match="no right to flag set"):
        rights.check(replace_names(creator), {}, "team", NOW)


def replace_names(creator: Creator) -> Creator:
    return creator._replace(evidence={"names": [creator.id]})


def rights_of(folder: Path, **settings: Any) -> tuple[PlannedRights, Replica]:
    replica = Replica(Settings(store_url=f"sqlite:///{folder}/flags.db", **{"auth": "required", **settings}))
    return PlannedRights(replica.access), replica


async def test_a_token_is_judged_as_the_store_has_it(tmp_path: Path) -> None:
    rights, replica = rights_of(tmp_path)
    token, _ = made("write", "default")
    creator = Creator("token", token.id)
    assert creator.record_ids == (token.id,)
    with pytest.raises(AccessUnknown):
        rights.check(creator, {token.id: token}, "default", NOW)
    assert replica.access is not None
    replica.access.view.revision = 1
    rights.check(creator, {token.id: token}, "default", NOW)
    refused: list[tuple[dict[str, Record], str]] = [
        ({}, "unknown"),
        ({token.id: replace(token, disabled=True)}, "disabled"),
        ({token.id: replace(token, revoked_at=NOW)}, "revoked"),
        ({token.id: replace(token, expires_at=NOW)}, "expired"),
        ({token.id: replace(token, role=Role.TOGGLE)}, "role write"),
        ({token.id: replace(token, flag_sets=("team-*",))}, "no right to flag set"),
    ]
    for records, words in refused:
        with pytest.raises(PermissionDenied, match=words):
            rights.check(creator, records, "default", NOW)
    with pytest.raises(PermissionDenied, match="not authenticated"):
        rights.check(Creator("unchecked", ""), {}, "default", NOW)
    rights_of(tmp_path, auth="off")[0].check(creator, {}, "default", NOW)
