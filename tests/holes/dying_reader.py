"""`flagsvc` that is killed between its read under a lease and its fill: python -m tests.holes.dying_reader"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

from flagsvc.adapters.mongo.store import MongoStore
from flagsvc.cli.main import main

HESITATES_S = 0.3


def arm() -> None:
    get = MongoStore.get

    async def got(self: MongoStore, *args: Any) -> Any:
        await get(self, *args)
        await asyncio.sleep(HESITATES_S)
        os.kill(os.getpid(), signal.SIGKILL)

    MongoStore.get = got


if __name__ == "__main__":
    arm()
    sys.exit(main())
