"""Ends transactions whose process was killed: MongoDB would keep their locks for a minute, in the way of all."""

from __future__ import annotations

from typing import Any

import structlog
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern

APP_NAME = "flagsvc"
"""What our connections say of themselves, before the name that the URL may give."""

log = structlog.get_logger(__name__)


async def end_orphans(client: Any, idle_s: float) -> int:
    """End transactions of any flagsvc in which nothing happened for longer than one of ours can take; gives how many.

    A process that was only frozen finds its transaction gone, and does it once more.
    """
    idle = {
        "type": "idleSession",
        "transaction.timeInactiveMicros": {"$gt": int(idle_s * 1e6)},
        "appName": {"$regex": f"^{APP_NAME}(:|$)"},  # nobody else's are ended
    }
    try:
        admin = client.admin.with_options(read_concern=ReadConcern("local"))
        operations = admin.aggregate([{"$currentOp": {"idleSessions": True, "allUsers": False}}, {"$match": idle}])
        sessions = [{"id": each["lsid"]["id"]} async for each in operations]
        if sessions:
            await client.admin.command("killSessions", sessions)
    except (PyMongoError, KeyError) as error:
        log.debug("transactions left open were not looked for", error=type(error).__name__)
        return 0
    if sessions:
        log.warning("ended transactions that their writers left open", transactions=len(sessions))
    return len(sessions)
