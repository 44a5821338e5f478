"""A replica set of several real mongods, whose primary can be replaced, frozen or killed."""

from __future__ import annotations

import time
from typing import Any, Self

import pymongo
from pymongo.errors import PyMongoError

from tests.servers import HOST, Mongod

ELECTION_S = 1.0
_WAIT_S = 30.0


class Member(Mongod):
    """One mongod of a set; the set is made by its `ReplicaSet`."""

    def _ready(self) -> bool:
        try:
            with self.client(serverSelectionTimeoutMS=100) as client:
                return bool(client.admin.command("ping")["ok"])
        except PyMongoError:
            return False

    def client(self, **options: Any) -> pymongo.MongoClient[dict[str, Any]]:
        """Create a client of this member alone, whatever its role in the set."""
        return pymongo.MongoClient(f"mongodb://{HOST}:{self.port}/?directConnection=true", **options)

    def hello(self) -> dict[str, Any]:
        """The member's own status; empty when it does not answer within a second."""
        try:
            with self.client(serverSelectionTimeoutMS=1000, socketTimeoutMS=1000) as client:
                return client.admin.command("hello")
        except PyMongoError:
            return {}


class ReplicaSet:
    """Members of one set, which elect a new primary within about `ELECTION_S` when the old one is gone."""

    def __init__(self, members: int = 3) -> None:
        self.members = [Member() for _ in range(members)]

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The URL without a database."""
        return self.database_url("")

    def database_url(self, name: str) -> str:
        """Return the URL of a database."""
        return f"mongodb://{','.join(self._addresses)}/{name}?replicaSet=rs0"

    def start(self) -> Self:
        """Start every member and make them a set; return when one is primary and all others follow it."""
        for member in self.members:
            member.start()
        described = [{"_id": n, "host": address} for n, address in enumerate(self._addresses)]
        settings = {"electionTimeoutMillis": int(ELECTION_S * 1000), "heartbeatIntervalMillis": 200}
        with self.members[0].client() as client:
            client.admin.command("replSetInitiate", {"_id": "rs0", "members": described, "settings": settings})
        self.wait_until_whole()
        return self

    def close(self) -> None:
        """End every member and remove its data."""
        for member in self.members:
            member.close()

    def primary(self) -> Member:
        """Wait for a primary that accepts writes, and return it."""
        return self._waited("primary", 1)[0]

    def secondaries(self) -> list[Member]:
        """Return the members that follow the primary now."""
        return [member for member in self.members if member.running and member.hello().get("secondary")]

    def wait_until_whole(self) -> None:
        """Wait until every member is primary or follows it."""
        self.primary()
        self._waited("secondary", len(self.members) - 1)

    def step_down(self) -> Member:
        """Make the primary step down; return the member that it was."""
        old = self.primary()
        with old.client() as client:
            client.admin.command("replSetStepDown", 10, secondaryCatchUpPeriodSecs=5)
        return old

    def _waited(self, state: str, count: int) -> list[Member]:
        name = {"primary": "isWritablePrimary"}.get(state, state)
        deadline = time.monotonic() + _WAIT_S
        while time.monotonic() < deadline:
            found = [member for member in self.members if member.running and member.hello().get(name)]
            if len(found) >= count:
                return found
            time.sleep(0.05)
        raise RuntimeError(f"the replica set has no {count} {state} within {_WAIT_S:g} s")

    @property
    def _addresses(self) -> list[str]:
        return [f"{HOST}:{member.port}" for member in self.members]
