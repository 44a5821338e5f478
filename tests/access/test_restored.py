"""Callers in the snapshot: what a replica that starts without its store knows of them, and lets them do."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from flagsvc.access.authority import Authority
from flagsvc.access.compiled_tokens import compiled
from flagsvc.access.token_view import TokenView
from flagsvc.adapters.snapshot import access_lines
from flagsvc.core.access.denials import Denial
from flagsvc.core.access.roles import EVALUATING, Role
from flagsvc.core.errors import AccessUnknown, Unauthenticated
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import token_service_pb2 as tokens
from flagsvc.generated.flagsvc.v1 import token_service_pb2_grpc as tokens_grpc
from flagsvc.ports import Saved, SavedAccess, StoreContents, StoredTokens
from tests.access.callers import bearer, guarded, made, stored
from tests.access.issuing import AUDIENCE, KUBERNETES, ec_key, jwks, kubernetes_claims, signed
from tests.holes.proxies import CACHE, STORE, TAIL, Proxies
from tests.replicas import Client, replica, until
from tests.snapshot_files import NOW, at

NOT_EVALUATIONS = set(Role) - EVALUATING
POD = f"jwt:{KUBERNETES}|system:serviceaccount:team-a:web"


def denied(name: str = POD, **fields: object) -> Denial:
    return replace(Denial(name=name, reason="", denied_by="token:x", denied_at=NOW), **fields)  # type: ignore[arg-type]


def test_a_snapshot_has_callers_with_digests_only(tmp_path: Path) -> None:
    token, text = made("write", "default")
    access = SavedAccess([token], [denied()], ["revoked00000"])
    saved = Saved(StoreContents([], {}), NOW, access=access)
    assert at(tmp_path / "s").write(saved)
    assert at(tmp_path / "s").read() == saved
    content = (tmp_path / "s").read_text()
    assert token.secrets[0].digest in content
    assert text.split("_")[2] not in content
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "wrong", [b"", b"revoked 7\n", b"revoked []\nx {}\n", b"revoked []\nmore\n", b'x ["a"]\nx {}\n']
)
def test_lines_about_callers_that_do_not_fit_are_refused(tmp_path: Path, wrong: bytes) -> None:
    (tmp_path / "s").write_bytes(wrong)
    with (tmp_path / "s").open("rb") as file, pytest.raises(access_lines.BadAccess):
        access_lines.access_in(file, 1 if b"more" in wrong else 2)


def test_what_is_saved_is_who_may_call_and_who_may_not() -> None:
    usable, disabled, revoked = (made("read")[0] for _ in range(3))
    ended = replace(revoked, revoked_at=NOW, secrets=())
    over = denied("jwt:i|over", expires_at=NOW + timedelta(days=1), lifted_at=NOW + timedelta(seconds=1))
    view = TokenView()
    stored_now = [usable, replace(disabled, disabled=True), ended]
    view.hold(StoredTokens(3, stored_now, denials=[denied(), over]), time.monotonic())
    assert view.to_save() == SavedAccess([usable], [denied()], [revoked.id])
    view.hold(StoredTokens(2, [usable, revoked], denials=[denied()]), time.monotonic())  # the store was restored
    assert view.to_save() == SavedAccess([usable], [denied()], [revoked.id])


def test_a_restored_view_lets_known_callers_evaluate_until_the_store_is_read() -> None:
    (writer, text), (newer, newer_text) = made("write"), made("read")
    expired, old = made("admin")
    expired = replace(expired, created_at=NOW - timedelta(days=2), expires_at=NOW - timedelta(days=1))
    view, (gone, gone_text) = TokenView(), made("read")
    authority = Authority(view, 5.0)
    view.restore(SavedAccess([writer, expired], [denied()], [gone.id]), compiled([writer, expired], {}))
    assert str(authority.identify(text)) == f"token:{writer.id}"
    authority.check_known(Role.EVALUATE)
    for role in NOT_EVALUATIONS:
        with pytest.raises(AccessUnknown):
            authority.check_known(role)
    for refused in (old, gone_text):
        with pytest.raises(Unauthenticated):
            authority.identify(refused)
    with pytest.raises(AccessUnknown):
        authority.identify(newer_text)  # it may have been made since
    assert (view.is_restored, view.denials.in_force(NOW)) == (True, {POD})
    # The store is read: it has lost the revocation, has ended the writer, and knows a newer token.
    view.hold(StoredTokens(9, [replace(writer, disabled=True), newer, gone]), time.monotonic())
    assert not view.is_restored
    assert str(authority.identify(newer_text)) == f"token:{newer.id}"
    for refused in (text, gone_text):
        with pytest.raises(Unauthenticated):
            authority.identify(refused)
    assert (view.returned, view.denials.lost) == ({gone.id}, {POD})
    for role in Role:
        authority.check_known(role)


def test_a_snapshot_that_is_read_after_the_store_still_says_who_was_revoked() -> None:
    token, text = made("read")
    view = TokenView()
    view.hold(StoredTokens(1, [token], denials=[denied(lifted_at=NOW + timedelta(days=1))]), time.monotonic())
    other = made("admin")[0]
    view.restore(SavedAccess([other], [denied()], [token.id]), compiled([other], {}))
    with pytest.raises(Unauthenticated):
        Authority(view, 5.0).identify(text)
    assert (set(view.tokens), view.denials.in_force(datetime.now(UTC))) == ({token.id}, frozenset())


async def test_a_replica_without_its_store_answers_evaluations_of_callers_in_its_snapshot(tmp_path: Path) -> None:
    path, snapshot = tmp_path / "flags.db", tmp_path / "snapshot"
    url = f"sqlite:///{path}"
    (root, root_text), (caller, text), (gone, gone_text) = made("admin"), made("write"), made("read")
    await stored(url, root, caller, gone)
    key, settings = issuer_of(tmp_path)
    settings["snapshot_file"] = str(snapshot)
    async with guarded(url, **settings) as (client, _):
        stub, admin = tokens_grpc.TokenServiceStub(client.channel), bearer(root_text)
        await client.stub.CreateFlag(pb.CreateFlagRequest(flag={"key": "a"}), metadata=admin, timeout=5)
        await stub.RevokeToken(tokens.RevokeTokenRequest(id=gone.id), metadata=admin, timeout=5)
        await stub.DenyIdentity(tokens.DenyIdentityRequest(identity=POD), metadata=admin, timeout=5)
    assert f'"{gone.id}"' in snapshot.read_text(), "it was saved at the end"
    away = path.rename(path.with_name("away"))
    path.mkdir()  # the store cannot be opened
    pods = {name: bearer(signed(kubernetes_claims(account=name), key)) for name in ("web", "other")}
    async with replica(store_url=url, auth="required", **settings) as (client, server):
        assert server.replica.access is not None
        await until(server.replica.is_ready)
        callers = {"token": bearer(text), "revoked": bearer(gone_text), "unknown": bearer(made("read")[1]), **pods}
        assert {name: await evaluated(client, headers) for name, headers in callers.items()} == {
            "token": "OK",
            "revoked": "UNAUTHENTICATED",
            "unknown": "UNAVAILABLE",
            "web": "PERMISSION_DENIED",
            "other": "OK",
        }
        for call in (
            client.stub.ListFlags(pb.ListFlagsRequest(), metadata=bearer(text), timeout=5),
            client.stub.ToggleFlag(pb.ToggleFlagRequest(flag_key="a"), metadata=bearer(text), timeout=5),
            tokens_grpc.TokenServiceStub(client.channel).ListTokens(
                tokens.ListTokensRequest(), metadata=bearer(root_text), timeout=5
            ),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        # The store comes back, and has lost the denial.
        path.rmdir()
        with sqlite3.connect(away) as db:
            db.execute("DELETE FROM tokens WHERE id LIKE 'denial-%'")
        db.close()
        away.rename(path)
        while await status(client, bearer(text)) != "OK":  # noqa: ASYNC110  the replica does it by itself
            await asyncio.sleep(0.05)
        assert await evaluated(client, pods["web"]) == "PERMISSION_DENIED"
        assert "denials_lost" in {each.name for each in server.replica.status().problems}


async def test_nobody_is_recognized_by_what_others_prove_before_it_is_known_who_is_denied(tmp_path: Path) -> None:
    (tmp_path / "flags.db").mkdir()  # the store cannot be opened
    key, settings = issuer_of(tmp_path)
    headers = bearer(signed(kubernetes_claims(), key))
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db", auth="required", **settings) as (client, _):
        assert await evaluated(client, headers) == "UNAVAILABLE"
        (tmp_path / "flags.db").rmdir()
        while await evaluated(client, headers) != "OK":  # noqa: ASYNC110  the replica does it by itself
            await asyncio.sleep(0.05)


async def test_with_mongodb_and_redis_hanging_a_replica_starts_with_the_callers_of_its_snapshot(
    mongo_database_url: str, redis_clean_url: str, tmp_path: Path
) -> None:
    (root, root_text), (caller, text), (gone, gone_text) = made("admin"), made("write"), made("read")
    await stored(mongo_database_url, root, caller, gone)
    settings = {"snapshot_file": str(tmp_path / "snapshot")}
    with Proxies(mongo_database_url, redis_clean_url) as proxies:
        async with guarded(**proxies.urls, **settings) as (client, _):
            stub, admin = tokens_grpc.TokenServiceStub(client.channel), bearer(root_text)
            await client.stub.CreateFlag(pb.CreateFlagRequest(flag={"key": "a"}), metadata=admin, timeout=5)
            await stub.RevokeToken(tokens.RevokeTokenRequest(id=gone.id), metadata=admin, timeout=5)
        proxies.do(proxies.mongo.stall, STORE)
        proxies.do(proxies.mongo.stall, TAIL)
        proxies.do(proxies.redis.stall, CACHE)
        async with replica(auth="required", **proxies.urls, **settings) as (client, server):
            await until(server.replica.is_ready)
            assert await evaluated(client, bearer(text)) == "OK"
            assert await evaluated(client, bearer(gone_text)) == "UNAUTHENTICATED"
            assert await status(client, bearer(text)) == "UNAVAILABLE"
            proxies.heal(proxies.mongo, STORE, TAIL)
            proxies.heal(proxies.redis, CACHE)
            while await status(client, bearer(text)) != "OK":  # noqa: ASYNC110  the replica does it by itself
                await asyncio.sleep(0.05)
            assert await evaluated(client, bearer(gone_text)) == "UNAUTHENTICATED"


def issuer_of(folder: Path) -> tuple[Any, dict[str, str]]:
    """Return the key of an issuer whose pods may evaluate, and the settings for it."""
    key = ec_key()
    (folder / "keys.json").write_bytes(jwks(k1=key))
    rule = {"when": [{"claim": "sub", "prefix": "system:serviceaccount:"}], "grant": "evaluate@default"}
    issuer = {"issuer": KUBERNETES, "audience": AUDIENCE, "jwks": f"file:{folder}/keys.json", "rules": [rule]}
    (folder / "issuers.json").write_text(json.dumps({"issuers": [issuer]}))
    return key, {"jwt_issuers_file": str(folder / "issuers.json")}


async def evaluated(client: Client, headers: object) -> str:
    try:
        await client.stub.EvaluateFlag(pb.EvaluateFlagRequest(flag_key="a"), metadata=headers, timeout=5)  # type: ignore[arg-type]
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def status(client: Client, headers: object) -> str:
    try:
        await client.stub.GetFlag(pb.GetFlagRequest(flag_key="a"), metadata=headers, timeout=5)  # type: ignore[arg-type]
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"
