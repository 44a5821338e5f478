"""Sending a large body no faster than its client takes it."""

from __future__ import annotations

from starlette.types import Message, Send

from flagsvc.turns import in_turns

PIECE_BYTES = 262_144
"""Bytes of a body that are sent at once."""


def until_taken(send: Send) -> Send:
    """Return a `send` that returns once the client has taken the body: the server waits for it before the next part.

    A large body is sent in pieces: HTTP's code copies each.
    """

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            body = memoryview(message["body"])
            async for start in in_turns(range(0, len(body), PIECE_BYTES)):
                await send({**message, "body": bytes(body[start : start + PIECE_BYTES]), "more_body": True})
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await send(message)

    return sent
