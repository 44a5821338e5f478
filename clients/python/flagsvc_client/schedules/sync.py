"""For threads. Generated from aio.py by `make sync-client`; do not edit."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Unpack

from flagsvc_client.flag_fields import FlagFields
from flagsvc_client.schedules.planned import (
    OnConflict,
    Schedule,
    ScheduleState,
    conflict_number,
    planned,
    put_lateness,
    put_time,
    schedule_of,
    state_number,
)
from flagsvc_client.session import PAGE_SIZE, Session
from flagsvc_client.stubs.flagsvc.v1 import schedule_service_pb2 as pb
from flagsvc_client.transport.sync import Transport


class Schedules:
    """The part of a client that is about planned changes. Every failed call raises a FlagServiceError."""

    _session: Session
    _transport: Transport

    def schedule(
        self,
        key: str,
        at: datetime,
        *,
        zone: str = "UTC",
        on_conflict: OnConflict | str = OnConflict.HOLD,
        max_lateness_s: float | None = None,
        reason: str = "",
        on_behalf_of: str = "",
        request_id: str = "",
        validate_only: bool = False,
        **fields: Unpack[FlagFields],
    ) -> Schedule:
        """Plan to set fields of a flag, such as `status="ENABLED"`. Raises FlagNotFound.

        `at`: a time with an offset, or a local time of the zone. `max_lateness_s`: how late the change may still be
        made, by default an hour. `request_id`: a name for this plan; sent again, it is planned once. `validate_only`:
        only check it; the result is what would be stored.
        """
        message = planned(key, fields)
        put_time(message, at, zone)
        message.on_conflict = conflict_number(on_conflict)
        put_lateness(message, max_lateness_s)
        request = pb.CreateScheduleRequest(
            flag_set=self._session.flag_set, schedule=message, request_id=request_id, validate_only=validate_only
        )
        self._session.put_author(request, reason, on_behalf_of)
        return schedule_of((self._transport.call("CreateSchedule", request, self._session.write_timeout_s)).schedule)

    def get_schedule(self, schedule_id: str) -> Schedule:
        """Read one schedule."""
        request = pb.GetScheduleRequest(flag_set=self._session.flag_set, id=schedule_id)
        return schedule_of((self._transport.call("GetSchedule", request)).schedule)

    def schedules(self, key: str = "", states: Iterable[ScheduleState | str] = ()) -> list[Schedule]:
        """Read schedules by time, of one flag or of all: those that have not ended, unless `states` says which."""
        request = pb.ListSchedulesRequest(
            flag_set=self._session.flag_set, flag_key=key, states=map(state_number, states), page_size=PAGE_SIZE
        )
        found = list[Schedule]()
        while True:
            page = self._transport.call("ListSchedules", request)
            found += map(schedule_of, page.schedules)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    def move_schedule(
        self,
        schedule_id: str,
        at: datetime,
        *,
        zone: str = "",
        etag: str = "",
        request_id: str = "",
        validate_only: bool = False,
    ) -> Schedule:
        """Plan a schedule for another time; it then compares with the flag as it is now. `zone`: default: its own.

        `request_id`: a name for this write; sent again, it is made once.
        """
        message = pb.Schedule(id=schedule_id, etag=etag)
        put_time(message, at, zone)
        request = pb.UpdateScheduleRequest(
            flag_set=self._session.flag_set, schedule=message, request_id=request_id, validate_only=validate_only
        )
        request.update_mask.paths.extend(["execute_time", *(["time_zone"] if zone else [])])
        self._session.put_author(request, "", "")
        return schedule_of((self._transport.call("UpdateSchedule", request, self._session.write_timeout_s)).schedule)

    def cancel_schedule(
        self, schedule_id: str, *, etag: str = "", reason: str = "", request_id: str = "", validate_only: bool = False
    ) -> Schedule:
        """End a schedule before its time. Idempotent; with an etag, by its `request_id`, a name for this write."""
        request = pb.CancelScheduleRequest(
            flag_set=self._session.flag_set,
            id=schedule_id,
            etag=etag,
            request_id=request_id,
            validate_only=validate_only,
        )
        self._session.put_author(request, reason, "")
        return schedule_of((self._transport.call("CancelSchedule", request, self._session.write_timeout_s)).schedule)

    def execute_schedule(
        self, schedule_id: str, *, etag: str = "", reason: str = "", request_id: str = "", validate_only: bool = False
    ) -> Schedule:
        """Make a planned change now, whatever has changed since it was planned. Later reads show it.

        `request_id`: a name for this write; sent again, it is made once. `validate_only`: only check it; the result is
        the schedule as it would end.
        """
        request = pb.ExecuteScheduleRequest(flag_set=self._session.flag_set, id=schedule_id, etag=etag)
        timeout_s = self._session.complete_write_request(
            request, reason=reason, request_id=request_id, validate_only=validate_only
        )
        response = self._transport.call("ExecuteSchedule", request, timeout_s)
        self._session.note_written(response.spread.revision)
        return schedule_of(response.schedule)
