"""`flagsvc` over PyMongo's asynchronous client in place of motor: what the driver costs, in benchmarks.tiers."""

from __future__ import annotations

import sys
from typing import Any

import pymongo

from flagsvc.__main__ import main
from flagsvc.adapters.mongo.store import MongoStore

if __name__ == "__main__":
    defaults: dict[str, Any] = MongoStore.__init__.__kwdefaults__
    defaults["client_factory"] = pymongo.AsyncMongoClient
    sys.exit(main())
