"""For threads. Generated from aio.py by `make sync-client`; do not edit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Unpack

from flagsvc_client._engine.model import Flag
from flagsvc_client.flag_fields import FieldsAndOptions, WriteOptions, flag_with, split_options
from flagsvc_client.results import HistoryEntry, WriteResult, history_entry_of
from flagsvc_client.session import PAGE_SIZE, Session
from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc_client.transport.sync import Transport
from flagsvc_client.wire_flags import flag_of

if TYPE_CHECKING:
    from flagsvc_client.local.updater import LocalUpdater


class Definitions:
    """The part of a client that is about definitions. Every failed call raises a FlagServiceError."""

    _session: Session
    _transport: Transport
    _local: LocalUpdater | None

    def flag(self, key: str) -> Flag:
        """Read one definition. Raises FlagNotFound."""
        response = self._transport.call("GetFlag", self._session.get_request(key))
        return flag_of(response.flag)

    def flags(self) -> list[Flag]:
        """Read all definitions of the set, ordered by sort order, then key. Raises FlagServiceError."""
        request, flags = pb.ListFlagsRequest(flag_set=self._session.flag_set, page_size=PAGE_SIZE), list[Flag]()
        while True:
            page = self._transport.call("ListFlags", request)
            flags += map(flag_of, page.flags)
            if not page.next_page_token:
                return flags
            request.page_token = page.next_page_token

    def history(self, key: str, limit: int = 50) -> list[HistoryEntry]:
        """Read a flag's newest changes, newest first. Raises FlagServiceError."""
        request = pb.ListFlagHistoryRequest(flag_key=key, flag_set=self._session.flag_set, page_size=limit)
        response = self._transport.call("ListFlagHistory", request)
        return [history_entry_of(entry) for entry in response.entries]

    def create(self, flag: Flag, **options: Unpack[WriteOptions]) -> WriteResult:
        """Create a flag in the client's flag set. Raises FlagExists."""
        request = self._session.create_request(flag)
        return self._write("CreateFlag", request, options)

    def update(
        self, flag: Flag, fields: Iterable[str], *, etag: str = "", **options: Unpack[WriteOptions]
    ) -> WriteResult:
        """Set the named fields to their values in `flag`. Raises FlagNotFound, and FlagConflict for an old etag."""
        request = self._session.update_request(flag, fields, etag)
        return self._write("UpdateFlag", request, options)

    def set(self, key: str, *, etag: str = "", **fields: Unpack[FieldsAndOptions]) -> WriteResult:
        """Set fields of a flag, such as `status="BETA"`. Raises FlagNotFound, and FlagConflict for an old etag."""
        changed, options = split_options(fields)
        request = self._session.update_request(flag_with(key, changed), changed, etag)
        return self._write("UpdateFlag", request, options)

    def toggle(self, key: str, enabled: bool, *, etag: str = "", **options: Unpack[WriteOptions]) -> WriteResult:
        """Switch a flag on or off. Raises FlagNotFound, and FlagConflict for an old etag."""
        request = pb.ToggleFlagRequest(flag_key=key, flag_set=self._session.flag_set, enabled=enabled, etag=etag)
        return self._write("ToggleFlag", request, options)

    def delete(self, key: str, *, etag: str = "", **options: Unpack[WriteOptions]) -> WriteResult:
        """Delete a flag; its history stays. Raises FlagNotFound, and FlagConflict for an old etag."""
        request = pb.DeleteFlagRequest(flag_key=key, flag_set=self._session.flag_set, etag=etag)
        return self._write("DeleteFlag", request, options)

    def _write(self, method: str, request: Any, options: WriteOptions) -> WriteResult:
        session = self._session
        timeout_s = session.complete_write_request(request, **options)
        result = session.write_result(self._transport.call(method, request, timeout_s))
        if self._local is not None and result.reached is not None:
            self._local.apply_own_write(request, result)
        return result
