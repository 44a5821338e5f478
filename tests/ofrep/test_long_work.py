"""The evaluation of a whole set ends with its client, or at its time limit, and is sent in pieces."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from flagsvc import turns
from flagsvc.api.http.bodies import Disconnected
from flagsvc.api.http.taking import PIECE_BYTES, until_taken
from flagsvc.api.ofrep import middleware
from flagsvc.api.ofrep.middleware import _while_connected
from flagsvc.api.ofrep.requests import Refused
from tests.replicas import replica, until, until_serving

BULK = b"POST /ofrep/v1/evaluate/flags HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"


class Work:
    """A handler's work that never ends by itself."""

    cancelled = False

    async def run(self) -> Response:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        raise AssertionError


async def staying() -> MutableMapping[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError


async def test_work_that_takes_too_long_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "WORK_S", 0.01)
    work = Work()
    with pytest.raises(Refused) as caught:
        await _while_connected(staying, work.run())
    assert caught.value.status == 503
    assert "took longer than 0.01 s" in json.dumps(caught.value.body)
    assert work.cancelled


async def test_work_ends_when_its_client_has_left() -> None:
    async def leaving() -> MutableMapping[str, Any]:
        return {"type": "http.disconnect"}

    work = Work()
    with pytest.raises(Disconnected):
        await _while_connected(leaving, work.run())
    assert work.cancelled


async def test_a_client_that_leaves_ends_its_bulk_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db", ofrep_port=0) as (client, server):
        await until_serving(client)
        work, asked = Work(), asyncio.Event()

        async def evaluate_set(*_: object, **__: object) -> AsyncIterator[Any]:
            asked.set()
            yield await work.run()

        monkeypatch.setattr(server.replica.reader, "evaluate_set", evaluate_set)
        _, writer = await asyncio.open_connection("127.0.0.1", server.ofrep_port)
        writer.write(BULK)
        await asked.wait()
        assert server._admission.ofrep.taken == 1
        writer.close()
        await until(lambda: work.cancelled and server._admission.ofrep.taken == 0)


async def test_a_large_body_is_sent_in_pieces_between_which_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN_S", 0.0)
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    body = bytes(range(256)) * (5 * PIECE_BYTES // 512 + 1)
    sending, most = asyncio.ensure_future(until_taken(send)({"type": "http.response.body", "body": body})), 0
    while not sending.done():
        before = len(sent)
        await asyncio.sleep(0)
        most = max(most, len(sent) - before)
    assert most <= 2, "a piece, and the end"
    assert b"".join(message["body"] for message in sent) == body
    assert max(len(message["body"]) for message in sent) == PIECE_BYTES
    assert [message["more_body"] for message in sent] == [True] * (len(sent) - 1) + [False]
