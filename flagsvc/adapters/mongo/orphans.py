"""Ends transactions whose process was killed. MongoDB would hold their locks for a minute, blocking other writers."""

from __future__ import annotations

from typing import Any

import structlog
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern

APP_NAME = "flagsvc"
"""The application name of flagsvc's connections in MongoDB. A name in the URL is appended to it."""

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
        admin = client.admin.with_options(read_concern=ReadConcern("local"))
        operations = admin.aggregate([{"$currentOp": {"idleSessions": True, "allUsers": False}}, {"$match": idle}])
        sessions = [{"id": each["lsid"]["id"]} async for each in operations]
        if sessions:
            await client.admin.command("killSessions", sessions)
    except (PyMongoError, KeyError) as error:
        log.debug("orphaned_transactions_check_failed", error=type(error).__name__)
        return 0
    if sessions:
        log.warning("orphaned_transactions_ended", transactions=len(sessions))
    return len(sessions)
