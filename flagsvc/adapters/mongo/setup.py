"""MongoDB client options, and the collections and indexes that flagsvc needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl

import pymongo
import structlog
from pymongo import IndexModel
from pymongo.errors import CollectionInvalid, ExecutionTimeout, OperationFailure, PyMongoError
from pymongo.uri_parser import validate_options

from flagsvc.adapters.mongo.audit import AUDIT, REFUSALS
from flagsvc.adapters.mongo.causes import mongo_cause
from flagsvc.adapters.mongo.change_stream import RESUME_POINTS
from flagsvc.adapters.mongo.definitions import COLLECTION as DEFINITIONS
from flagsvc.adapters.mongo.definitions import INDEXES
from flagsvc.adapters.mongo.links import PREREQUISITE, SEGMENTS
from flagsvc.adapters.mongo.orphans import APP_NAME
from flagsvc.adapters.mongo.requests import COLLECTION as REQUESTS
from flagsvc.adapters.mongo.requests import INDEX
from flagsvc.adapters.mongo.schedules import COLLECTION as SCHEDULES
from flagsvc.core.requests import REMEMBERED
from flagsvc.core.schedules.model import KEPT_S

BUILD_S = 60.0
"""Timeout for building an index, which may cover years of history."""
_APP_NAME_BYTES = 128 - len("-tail")  # MongoDB's limit
_NAMESPACE_EXISTS = 48

log = structlog.get_logger(__name__)


def check_options(url: str) -> None:
    """Raise ValueError, without an option's value, for one that the driver would ignore with a warning."""
    for name, value in parse_qsl(url.partition("?")[2].replace(";", "&")):
        try:
            validate_options({name: value}, warn=False)
        except OSError:
            raise ValueError(f"the file that the option {name[:40]} names cannot be read") from None
        except (PyMongoError, ValueError, TypeError) as error:
            if "Unknown option" in str(error):
                hint = "see MongoDB's connection string options"
                raise ValueError(f"unknown option {name[:40]!r} in the URL; {hint}") from None
            raise ValueError(f"the option {name[:40]} has a value that is not valid for it") from None


def client_options(url: str, timeout_s: float, pool_size: int) -> dict[str, Any]:
    """Return the options of the client that reads and writes. `timeoutMS` bounds each operation as a whole."""
    milliseconds = int(timeout_s * 1000)
    return {
        "appname": _app_name(url),
        "connect": False,
        "maxPoolSize": pool_size,
        "timeoutMS": milliseconds,
        "serverSelectionTimeoutMS": milliseconds,
        "connectTimeoutMS": milliseconds,
        "retryReads": True,
        "retryWrites": True,
        "w": "majority",
        "readConcernLevel": "majority",
        "readPreference": "primary",
    }


def change_stream_options(url: str) -> dict[str, Any]:
    """Return the options of the change stream's client. A server that is silent for 2.5 s is considered down."""
    return {
        "appname": _app_name(url) + "-tail",
        "connect": False,
        "minPoolSize": 0,
        "maxPoolSize": 2,
        "timeoutMS": None,  # It would include the time spent waiting for changes.
        "socketTimeoutMS": 2_500,
        "serverSelectionTimeoutMS": 2_000,
        "connectTimeoutMS": 2_000,
        "retryReads": False,
        "readConcernLevel": "majority",
        "readPreference": "primary",
    }


async def prepare(database: Any) -> None:
    """Create missing collections and indexes. Those of the existing system are used unchanged.

    What MongoDB refuses is a warning: flags can be served without, and somebody else may create it.
    """
    with _wished("collections"):
        there = await database.list_collection_names(authorizedCollections=True)
        names = (
            "audit_logs",
            "flagsvc_revisions",
            RESUME_POINTS,
            AUDIT,
            REFUSALS,
            DEFINITIONS,
            REQUESTS,
            SCHEDULES,
            SEGMENTS,
        )
        for name in names:
            if name not in there:
                await _create_collection(database, name)
    with _wished("the unique index on flagSet and key of feature_flags"):
        flags = database["feature_flags"]
        keys = await index_keys(flags)
        if keys.get(("key",)) is not True and ("flagSet", "key") not in keys:
            await _create_index(flags, [("flagSet", 1), ("key", 1)], unique=True)
    with _wished("the index on featureKey and createdAt of feature_flag_history"):
        history = database["feature_flag_history"]
        if not any(key[0] == "featureKey" for key in await index_keys(history)):
            await _create_index(history, [("featureKey", 1), ("createdAt", -1)])
    with _wished("the indexes on createdAt for audit entries"):
        for name in ("feature_flag_history", AUDIT, REFUSALS):
            if ("createdAt", "_id") not in await index_keys(database[name]):
                await _create_index(database[name], [("createdAt", -1), ("_id", -1)])
    with _wished("the indexes of flagsvc_definitions and flagsvc_requests"):
        await _index_revisions(database[DEFINITIONS], database[REQUESTS])
    with _wished("the indexes of flagsvc_schedules"):
        await _index_schedules(database[SCHEDULES])
    with _wished("the indexes on prerequisites of feature_flags and of flagsvc_segments"):
        await _index_links(database["feature_flags"], database[SEGMENTS])


async def _index_links(flags: Any, segments: Any) -> None:
    if (PREREQUISITE,) not in await index_keys(flags):
        await _create_index(flags, [(PREREQUISITE, 1)], sparse=True)
    if ("flagSet", "name") not in await index_keys(segments):
        await _create_index(segments, [("flagSet", 1), ("name", 1)], unique=True)


async def _index_revisions(definitions: Any, requests: Any) -> None:
    there = await index_keys(definitions)
    if missing := [IndexModel(list(index)) for index in INDEXES if tuple(name for name, _ in index) not in there]:
        with pymongo.timeout(BUILD_S):
            await definitions.create_indexes(missing)
    if ("at",) not in await index_keys(requests):
        await _create_index(requests, INDEX, expireAfterSeconds=int(REMEMBERED.total_seconds()))


async def _index_schedules(schedules: Any) -> None:
    there = await index_keys(schedules)
    for key in (("state", "executeAt", "number"), ("flagSet", "flagKey", "executeAt", "number")):
        if key not in there:
            await _create_index(schedules, [(name, 1) for name in key])
    if ("endedAt",) not in there:
        await _create_index(schedules, [("endedAt", 1)], expireAfterSeconds=KEPT_S)


@contextmanager
def _wished(what: str) -> Iterator[None]:
    """Turn a refusal into a warning. What a later attempt may do is raised."""
    try:
        yield
    except ExecutionTimeout:
        raise
    except OperationFailure as error:
        if error.has_error_label("RetryableWriteError"):
            raise
        cause, detail = mongo_cause(error).text, "Create what is missing by hand, or grant the rights to do so."
        log.warning("store_setup_refused", wanted=what, cause=cause, detail=detail)


async def index_keys(collection: Any) -> dict[tuple[str, ...], bool]:
    """Return each index's field names and whether it is unique. Index names depend on the program that created them."""
    indexes = (await collection.index_information()).values()
    return {tuple(name for name, _ in index["key"]): bool(index.get("unique")) for index in indexes}


async def _create_collection(database: Any, name: str) -> None:
    try:
        await database.create_collection(name, check_exists=False)
    except CollectionInvalid:
        return
    except OperationFailure as error:
        if error.code != _NAMESPACE_EXISTS:  # Another replica has created it in the meantime.
            raise


async def _create_index(collection: Any, key: list[tuple[str, int]], **options: Any) -> None:
    with pymongo.timeout(BUILD_S):
        await collection.create_index(key, **options)


def _app_name(url: str) -> str:
    """Return the application name: flagsvc's, by which `orphans` finds its transactions, and the URL's."""
    options = {name.lower(): value for name, value in parse_qsl(url.partition("?")[2])}
    name = f"{APP_NAME}:{options['appname']}" if options.get("appname") else APP_NAME
    return name.encode()[:_APP_NAME_BYTES].decode(errors="ignore")
