"""Checks of a MongoDB: connection, credentials, replica set, each right, the change stream, indexes and clock.

What is written is part of a transaction that is never committed.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pymongo
from pymongo.errors import OperationFailure, ServerSelectionTimeoutError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from flagsvc.adapters.causes import Cause
from flagsvc.adapters.checks.steps import CheckFailed, Finding, Steps, clock_detail, closing_quietly
from flagsvc.adapters.mongo import audit, definitions, links, requests, schedules, tokens
from flagsvc.adapters.mongo.causes import mongo_cause, refused_change
from flagsvc.adapters.mongo.change_stream import RESUME_POINTS, STANDALONE
from flagsvc.adapters.mongo.setup import check_options
from flagsvc.adapters.mongo.transactions import NOT_A_REPLICA_SET

_DEFAULT_DATABASE = "flagsvc"
RIGHTS: Mapping[str, str] = {
    "feature_flags": "find insert update remove",
    "feature_flag_history": "find insert",
    "audit_logs": "insert",
    "flagsvc_revisions": "find insert update",
    definitions.COLLECTION: "find insert update remove",
    requests.COLLECTION: "find insert remove",
    RESUME_POINTS: "find insert update",
    audit.AUDIT: "find insert",
    audit.REFUSALS: "find insert remove",
    tokens.COLLECTION: "find insert update remove",
    schedules.COLLECTION: "find insert update",
    links.SEGMENTS: "find insert update remove",
}
"""What a running replica does with each collection, as MongoDB names the actions; docs/operating.md has the role."""
_READ = tuple(name for name, actions in RIGHTS.items() if "find" in actions)
_FLAGS = ("feature_flags", "feature_flag_history", "audit_logs", "flagsvc_revisions")
_BESIDE = tuple(name for name in RIGHTS if name not in _FLAGS)


def check_mongo(url: str, timeout_s: float) -> list[Finding]:
    """Try everything that a replica does with MongoDB. Raises ValueError for an option that is not valid."""
    check_options(url)
    milliseconds = int(timeout_s * 1000)
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(
        url, serverSelectionTimeoutMS=milliseconds, connectTimeoutMS=milliseconds, timeoutMS=milliseconds
    )
    database: Any = client.get_default_database(_DEFAULT_DATABASE)
    steps = Steps("store", _cause)
    with closing_quietly(client.close):
        steps.run("connection", lambda: _connect(client), needed=True)
        steps.run("credentials", lambda: _authenticate(database), needed=True)
        steps.run("version", lambda: f"MongoDB {client.server_info()['version']}")
        steps.run("replica set", lambda: _replica_set(client))
        steps.run("read", lambda: _read(database))
        steps.run("linearizable read", lambda: _linearizable(client, database))
        steps.run("write in a transaction", lambda: _write(client, database))
        steps.run("write beside a flag", lambda: _write_beside(client, database))
        steps.run("change stream", lambda: _change_stream(database))
        steps.run("indexes", lambda: _indexes(database))
        steps.run("clock", lambda: _clock(client))
    return steps.findings


def _cause(error: Exception) -> Cause:
    refused = refused_change(error)
    if refused is not None:
        return Cause(refused.cause, "change the collection's validator or index, or give flagsvc another database")
    return mongo_cause(error)


def _connect(client: Any) -> str:
    try:
        client.admin.command("ping")
    except ServerSelectionTimeoutError:
        raise
    except OperationFailure:
        pass  # refused, so it answers
    return "a primary answers"


def _authenticate(database: Any) -> str:
    """Any command of a user needs the password; which rights there are is the next checks' to find."""
    status = database.command("connectionStatus")
    users = [each["user"] for each in status["authInfo"]["authenticatedUsers"]]
    return f"accepted, as {', '.join(users)}" if users else "none are given, and none are asked for"


def _replica_set(client: Any) -> str:
    hello = client.admin.command("hello")
    if "setName" in hello:
        return f"{hello['setName']} with {len(hello.get('hosts', ()))} members"
    if hello.get("msg") == "isdbgrid":
        return "a sharded cluster"
    raise CheckFailed(
        "MongoDB runs without replica set: flags cannot be changed, and changes of others are polled",
        "make it a replica set; one member is enough: start mongod with --replSet, then rs.initiate()",
    )


def _read(database: Any) -> str:
    for name in _READ:
        database[name].find_one({}, {"_id": 1})
    return f"all {len(_READ)} collections that are read can be read"


def _linearizable(client: Any, database: Any) -> str:
    if "setName" not in client.admin.command("hello"):
        return "not needed without replica set"
    database["flagsvc_revisions"].with_options(read_concern=ReadConcern("linearizable")).find_one({})
    return "the primary confirms that it is the primary"


def _write(client: Any, database: Any) -> str:
    key, now = _new_key(), datetime.now(UTC)
    flag = {"key": key, "name": key, "status": "DISABLED", "sortOrder": 0, "createdAt": now, "updatedAt": now}
    with _aborted(client) as session:
        edit = [{"$set": {"revision": 1}}]
        database["flagsvc_revisions"].find_one_and_update({"_id": key}, edit, upsert=True, session=session)
        row = {"featureKey": key, "action": "CREATED", "createdAt": now}
        database["feature_flag_history"].insert_one(row, session=session)
        database["audit_logs"].insert_one({"action": "CREATED", "createdAt": now}, session=session)
        database["feature_flags"].insert_one(flag, session=session)
        database["feature_flags"].update_one({"key": key}, {"$set": {"status": "ENABLED"}}, session=session)
        database["feature_flags"].delete_one({"key": key}, session=session)
    return "flag, history, audit log and counter can be written; the transaction was aborted"


def _write_beside(client: Any, database: Any) -> str:
    """Try what is written beside a flag, and without which the flag could be written all the same."""
    key = _new_key()
    with _aborted(client) as session:
        for name in _BESIDE:
            actions = RIGHTS[name].split()
            database[name].insert_one({"_id": key}, session=session)
            if "update" in actions:
                database[name].update_one({"_id": key}, {"$set": {"flagSet": key}}, session=session)
            if "remove" in actions:
                database[name].delete_one({"_id": key}, session=session)
    return f"{', '.join(_BESIDE)} can be written; the transaction was aborted"


def _new_key() -> str:
    return f"flagsvc-doctor-{secrets.token_hex(6)}"


@contextmanager
def _aborted(client: Any) -> Iterator[Any]:
    """Yield the session of a transaction that is aborted at the end."""
    with client.start_session() as session:
        session.start_transaction(read_concern=ReadConcern("snapshot"), write_concern=WriteConcern("majority"))
        try:
            yield session
        except OperationFailure as error:
            if error.code == NOT_A_REPLICA_SET:
                raise CheckFailed(
                    "MongoDB runs without transactions, so flags cannot be changed", "make it a replica set"
                ) from error
            raise
        finally:
            session.abort_transaction()


def _change_stream(database: Any) -> str:
    try:
        with database["feature_flags"].watch(max_await_time_ms=50) as stream:
            stream.try_next()
    except OperationFailure as error:
        if error.code == STANDALONE:
            raise CheckFailed(
                "there is none without replica set: everything is read again and again", "make it a replica set"
            ) from error
        raise
    return "it opens"


def _indexes(database: Any) -> str:
    found = database["feature_flags"].index_information().values()
    unique = [tuple(name for name, _ in index["key"]) for index in found if index.get("unique")]
    if ("key",) in unique or any("flagSet" in fields and "key" in fields for fields in unique):
        return "feature_flags has its unique index"
    if not found:
        return "feature_flags is not there yet; the first start creates it with its index, if the user may"
    raise CheckFailed(
        "feature_flags has no unique index on flagSet and key, so a flag could be created twice",
        "create it, or let a user who may do so start flagsvc once",
    )


def _clock(client: Any) -> str:
    there = client.admin.command("hello")["localTime"].replace(tzinfo=UTC)
    return clock_detail((there - datetime.now(UTC)).total_seconds(), "MongoDB")
