"""One suite for both forms of the client: the synchronous one is called in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from flagsvc_client import AsyncFlagClient, FlagClient

FORMS = ("sync", "aio")


class Asked:
    """A client of either form; every method is awaited."""

    def __init__(self, form: str, target: str, **options: Any) -> None:
        self.form = form
        self.client: Any = (AsyncFlagClient if form == "aio" else FlagClient)(target, **options)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        if self.form == "aio" or not callable(method):
            return method

        async def called(*args: Any, **named: Any) -> Any:
            return await asyncio.to_thread(method, *args, **named)

        return called

    async def watched(self) -> AsyncIterator[Any]:
        """Return what a watch yields."""
        if self.form == "aio":
            async for event in self.client.watch():
                yield event
        else:
            watch = self.client.watch()
            while (event := await asyncio.to_thread(next, watch, None)) is not None:
                yield event


@asynccontextmanager
async def asked(form: str, target: str, **options: Any) -> AsyncIterator[Asked]:
    """A client that is closed at the end."""
    client = Asked(form, target, **options)
    try:
        yield client
    finally:
        await client.close()
