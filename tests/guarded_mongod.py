"""A mongod that asks for a user and a password: a replica set of one, with users of different rights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pymongo

from tests.servers import HOST, Mongod

OPERATING = Path(__file__).parents[1] / "docs" / "operating.md"
DATABASE = "shop"
PASSWORD = "s3cret"


def documented_role() -> dict[str, Any]:
    """Return the command in the documentation that creates the role of least rights."""
    found = re.search(r"```js\n.*?runCommand\((\{.*?\n\})\)\n```", OPERATING.read_text(), re.DOTALL)
    assert found
    role: dict[str, Any] = json.loads(found[1])
    return role


class GuardedMongod(Mongod):
    """Users: admin, least (the documented role), reader (MongoDB's role read), nostream, nobody (no right at all)."""

    def __init__(self) -> None:
        super().__init__()
        self._guarded = False

    def url_of(self, user: str, database: str = DATABASE) -> str:
        """Return the URL of a database for one user."""
        place = f"{HOST}:{self.port}/{database}"
        return f"mongodb://{user}:{PASSWORD}@{place}?replicaSet=rs0&authSource=admin"

    def client(self, user: str = "admin") -> pymongo.MongoClient[dict[str, Any]]:
        """Return a client of one user."""
        return pymongo.MongoClient(self.url_of(user))

    def _command(self) -> list[str]:
        key_file = self.data / "key"
        if not key_file.exists():
            key_file.write_text("flagsvc tests" * 4)
            key_file.chmod(0o600)
        return [*super()._command(), "--keyFile", str(key_file)]

    def _ready(self) -> bool:
        if not super()._ready():
            return False
        if not self._guarded:
            self._create_users()
            self._guarded = True
        return True

    def _create_users(self) -> None:
        """The first user may be created by whoever connects from this machine."""
        with pymongo.MongoClient(f"mongodb://{HOST}:{self.port}/?directConnection=true") as client:
            client.admin.command("createUser", "admin", pwd=PASSWORD, roles=["root"])
        role = documented_role()
        silent = json.loads(json.dumps(role).replace('"changeStream", ', "")) | {"createRole": "nostream"}
        with self.client() as client:
            for each in (role, silent):
                client[DATABASE].command(each)
            roles: dict[str, list[Any]] = {
                "least": [{"role": role["createRole"], "db": DATABASE}],
                "nostream": [{"role": "nostream", "db": DATABASE}],
                "reader": [{"role": "read", "db": DATABASE}],
                "nobody": [],
            }
            for name, granted in roles.items():
                client.admin.command("createUser", name, pwd=PASSWORD, roles=granted)
