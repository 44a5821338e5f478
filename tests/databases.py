"""Databases for tests that need one of their own in MongoDB.

Collections and indexes take mongod a tenth of a CPU second to make, and hundreds of tests want them. So a database in
which a test has left them as flagsvc makes them is emptied and given to a later test; any other one is dropped.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pymongo
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.database import Database
from pymongo.uri_parser import parse_uri

from flagsvc.adapters.mongo.setup import prepare

Shape = dict[str, tuple[Any, ...]]
"""What collections there are, with their options and indexes."""


class Databases:
    """Those of one replica set."""

    def __init__(self, url: str) -> None:
        """`url`: without a database."""
        self._url, self._prepared, self._empty = url, Shape(), list[str]()

    @contextmanager
    def one(self) -> Iterator[str]:
        """Yield the URL of an empty database that nobody else has, as one that flagsvc may have been started on."""
        name = self._empty.pop() if self._empty else _new_name()
        yield with_database(self._url, name)
        with pymongo.MongoClient[dict[str, Any]](self._url) as client:
            if self._is_as_prepared(client[name]):
                for collection in self._prepared:
                    client[name][collection].delete_many({})
                self._empty.append(name)
            else:
                client.drop_database(name)

    @contextmanager
    def fresh(self) -> Iterator[str]:
        """Yield the URL of a database on which flagsvc was never started."""
        name = _new_name()
        yield with_database(self._url, name)
        with pymongo.MongoClient[dict[str, Any]](self._url) as client:
            client.drop_database(name)

    def drop(self) -> None:
        """Drop the databases that wait for a test."""
        with pymongo.MongoClient[dict[str, Any]](self._url) as client:
            for name in self._empty:
                client.drop_database(name)

    def _is_as_prepared(self, database: Database[dict[str, Any]]) -> bool:
        """Drop collections that are made by the first write. Return whether the others are as flagsvc prepares them."""
        self._prepared = self._prepared or self._shape_of_prepared(database.client)
        found = shape(database)
        for name in found.keys() - self._prepared.keys():
            database.drop_collection(name)
        return all(found.get(name) == wanted for name, wanted in self._prepared.items())

    def _shape_of_prepared(self, client: pymongo.MongoClient[dict[str, Any]]) -> Shape:
        name = _new_name()

        async def prepared() -> None:
            motor: Any = AsyncIOMotorClient(self._url)
            await prepare(motor[name])
            motor.close()

        with ThreadPoolExecutor(1) as pool:  # a loop may run in this thread
            pool.submit(asyncio.run, prepared()).result()
        found = shape(client[name])
        client.drop_database(name)
        return found


def shape(database: Database[dict[str, Any]]) -> Shape:
    """Return its collections, with their options and indexes."""
    found: Shape = {}
    for info in database.list_collections():
        is_plain = info["type"] == "collection"
        indexes = [*database[info["name"]].list_indexes()] if is_plain else []
        found[info["name"]] = (info["type"], info["options"], sorted(map(str, indexes)))
    return found


def _new_name() -> str:
    return f"flagsvc_test_{uuid.uuid4().hex[:12]}"


def with_database(url: str, name: str) -> str:
    """Return the MongoDB URL with another database."""
    address, _, options = url.partition("?")
    if parse_uri(url)["database"]:
        address = address.rpartition("/")[0]
    return f"{address.rstrip('/')}/{name}" + (f"?{options}" if options else "")
