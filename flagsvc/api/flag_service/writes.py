"""What every write of flags has: its remembered request, its check without a change, and its response."""

from __future__ import annotations

import hashlib
from typing import Any

from flagsvc.api.common.answers import sendable
from flagsvc.api.common.callers import CALLER
from flagsvc.api.flag_service import messages
from flagsvc.api.flag_service.flag_messages import flag_to_message
from flagsvc.core import validation
from flagsvc.core.changes import Decide
from flagsvc.core.errors import invalid
from flagsvc.core.lint import lint
from flagsvc.core.model import FlagId
from flagsvc.core.requests import WriteRequest
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.ports import Entry, FlagStore
from flagsvc.serving.writer import Writer, WriteResult

MAX_REQUEST_ID = 64
_HOW = frozenset({"request_id", "wait_for", "wait_timeout"})
"""Fields that do not say what is written."""
_Response = pb.CreateFlagResponse | pb.UpdateFlagResponse | pb.ToggleFlagResponse | pb.RollbackFlagResponse


class Checked:
    """What a write would store: only its entry, for it has spread nowhere."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry


Written = WriteResult | Checked


def write_request_of(request: Any) -> WriteRequest | None:
    """Return what a write is remembered by; None where its caller names it by no id. Raises InvalidRequest."""
    if not request.request_id:
        return None
    if request.validate_only:
        raise invalid("request_id", request.request_id, "empty where validate_only is set: nothing is written")
    request_id = validation.text("request_id", request.request_id, MAX_REQUEST_ID)
    what = type(request)()
    what.CopyFrom(request)
    for name in _HOW.intersection(what.DESCRIPTOR.fields_by_name):
        what.ClearField(name)
    text = what.DESCRIPTOR.full_name.encode() + what.SerializeToString(deterministic=True)
    caller = CALLER.get()
    return WriteRequest(str(caller) if caller.is_checked else "", request_id, hashlib.sha256(text).digest())


class RequestedWrites:
    """Makes writes as their requests want them."""

    def __init__(self, store: FlagStore, writer: Writer) -> None:
        self._store, self._writer = store, writer

    async def make(
        self, request: Any, flag_id: FlagId, decide: Decide, remembered: WriteRequest | None = None
    ) -> Written:
        """Make a write, once for its request id, or only check it. `remembered`: what its caller has of the request."""
        remembered = remembered or write_request_of(request)
        if request.validate_only:
            return Checked(await self._writer.preview(flag_id, decide))

        async def through(flag_id: FlagId, decide: Decide) -> Entry | None:
            return await self._store.write(flag_id, decide, remembered)

        wait_for = messages.wait_for(request)
        written = await self._writer.write(flag_id, decide, wait_for, through if remembered is not None else None)
        assert written is not None  # noqa: S101  only an import decides to write nothing
        return written


def encoded_write(response_type: type[_Response], written: Written) -> bytes:
    """Return the response to a write after which there is a flag."""
    flag = written.entry.flag
    assert flag is not None  # noqa: S101  only a deletion has no flag
    response = response_type(flag=sendable(flag_to_message(flag)))
    if isinstance(written, WriteResult):
        response.spread.CopyFrom(messages.spread_to_message(written))
    if not isinstance(response, pb.ToggleFlagResponse):
        response.notes.extend(map(str, lint(flag)))
    return response.SerializeToString()
