"""Ends transactions whose process was killed. MongoDB would hold their locks for a minute, blocking other writers."""

from __future__ import annotations

from typing import Any

import structlog
from pymongo.errors import PyMongoError

APP_NAME = "flagsvc"
"""The application name of flagsvc's connections in MongoDB. A name in the URL is appended to it."""

_MAX_ENDED = 1_000
"""In one go; those beyond are ended by the next."""
log = structlog.get_logger(__name__)


async def end_orphans(client: Any, idle_s: float) -> int:
    """End flagsvc transactions, of any process, that have been idle longer than one can take. Return their number.

    If the process was merely paused, its transaction fails and is repeated. Never raises a driver error.
    """
    idle = {
        "type": "idleSession",
        "transaction.timeInactiveMicros": {"$gt": int(idle_s * 1e6)},
        "appName": {"$regex": f"^{APP_NAME}(:|$)"},  # Transactions of other programs are left alone.
    }
    try:
        # The drivers' `aggregate` differs: motor's returns a cursor, PyMongo's must be awaited for one.
        pipeline = [{"$currentOp": {"idleSessions": True, "allUsers": False}}, {"$match": idle}]
        local, found = {"level": "local"}, {"batchSize": _MAX_ENDED}
        answer = await client.admin.command("aggregate", 1, pipeline=pipeline, cursor=found, readConcern=local)
        sessions = [{"id": each["lsid"]["id"]} for each in answer["cursor"]["firstBatch"]]
        if sessions:
            await client.admin.command("killSessions", sessions)
    except (PyMongoError, KeyError) as error:
        log.debug("orphaned_transactions_check_failed", error=type(error).__name__)
        return 0
    if sessions:
        log.warning("orphaned_transactions_ended", transactions=len(sessions))
    return len(sessions)
