"""flagsvc.v1.ScheduleService. Each handler unpacks, calls once and packs; the interceptor checks callers."""

from __future__ import annotations

from functools import partial
from typing import Any

import grpc

from flagsvc.access.planned_rights import PlannedRights
from flagsvc.api.common.answers import SMALLER_PAGE, within_limit
from flagsvc.api.common.callers import CALLER
from flagsvc.api.flag_service.authors import author_of
from flagsvc.api.flag_service.messages import spread_to_message, wait_for
from flagsvc.api.flag_service.paging import bad_page_token, from_page_token, page_size, to_page_token
from flagsvc.api.flag_service.writes import write_request_of
from flagsvc.api.schedule_service import messages
from flagsvc.core import validation
from flagsvc.core.errors import invalid
from flagsvc.core.schedules.model import Schedule
from flagsvc.generated.flagsvc.v1 import schedule_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import schedule_service_pb2_grpc as pb_grpc
from flagsvc.ports.schedules import ScheduleQuery
from flagsvc.schedules.planner import SchedulePlanner
from flagsvc.turns import off_loop

Context = grpc.aio.ServicerContext[Any, Any]
_LISTING = "schedules"
_MAX_ID = 64


class ScheduleService(pb_grpc.ScheduleServiceServicer):
    """Serves flagsvc.v1.ScheduleService."""

    def __init__(self, planner: SchedulePlanner, rights: PlannedRights) -> None:
        self._planner, self._rights = planner, rights

    async def CreateSchedule(self, request: pb.CreateScheduleRequest, context: Context) -> Any:
        """Plan a change."""
        author, creator = author_of(request), self._rights.creator(CALLER.get())
        wanted = await off_loop(
            messages.schedule_of, request.flag_set, request.schedule, creator, author.actor, author.reason
        )
        made = await self._planner.create(wanted, write_request_of(request), validate_only=request.validate_only)
        return await off_loop(_encoded, pb.CreateScheduleResponse, made)

    async def GetSchedule(self, request: pb.GetScheduleRequest, context: Context) -> Any:
        """Return one schedule."""
        found = await self._planner.get(validation.set_name(request.flag_set), _id(request.id))
        return await off_loop(_encoded, pb.GetScheduleResponse, found)

    async def ListSchedules(self, request: pb.ListSchedulesRequest, context: Context) -> Any:
        """List schedules in pages."""
        size = page_size(request.page_size, default=100)
        if request.flag_key:
            validation.flag_id(request.flag_set, request.flag_key)
        query = ScheduleQuery(
            flag_set=validation.set_name(request.flag_set),
            flag_key=request.flag_key,
            states=messages.states_of(request),
            after=_position(request.page_token),
        )
        found = await self._planner.page(query, size + 1)
        return await off_loop(_page, found, size)

    async def UpdateSchedule(self, request: pb.UpdateScheduleRequest, context: Context) -> Any:
        """Change the fields in the mask, and plan the schedule again."""
        flag_set, schedule_id = validation.set_name(request.flag_set), _id(request.schedule.id, "schedule.id")
        author, etag = author_of(request), validation.etag_revision(request.schedule.etag)
        current = await self._planner.get(flag_set, schedule_id)
        creator = self._rights.creator(CALLER.get())
        fields = await off_loop(messages.fields_of, request.schedule, list(request.update_mask.paths), current)
        changed = await self._planner.update(
            flag_set,
            schedule_id,
            fields,
            creator,
            author,
            etag=etag,
            request=write_request_of(request),
            validate_only=request.validate_only,
        )
        return await off_loop(_encoded, pb.UpdateScheduleResponse, changed)

    async def CancelSchedule(self, request: pb.CancelScheduleRequest, context: Context) -> Any:
        """End a schedule before its time."""
        author, etag = author_of(request), validation.etag_revision(request.etag)
        flag_set, schedule_id = validation.set_name(request.flag_set), _id(request.id)
        remembered = write_request_of(request)
        found = await self._planner.cancel(
            flag_set, schedule_id, author, etag, request=remembered, validate_only=request.validate_only
        )
        return await off_loop(_encoded, pb.CancelScheduleResponse, found)

    async def ExecuteSchedule(self, request: pb.ExecuteScheduleRequest, context: Context) -> Any:
        """Execute a schedule now."""
        author, etag = author_of(request), validation.etag_revision(request.etag)
        flag_set, schedule_id = validation.set_name(request.flag_set), _id(request.id)
        wait, remembered = wait_for(request), write_request_of(request)
        if request.validate_only:
            checked = await self._planner.preview_execution(flag_set, schedule_id, author, etag)
            return await off_loop(_encoded, pb.ExecuteScheduleResponse, checked)
        done, written = await self._planner.execute(flag_set, schedule_id, author, etag, wait, request=remembered)
        encode = partial(_encoded, spread=spread_to_message(written))
        return await off_loop(encode, pb.ExecuteScheduleResponse, done)


def _page(found: list[Schedule], size: int) -> bytes:
    more = ""
    if len(found) > size:
        last = found[size - 1]
        more = to_page_token(_LISTING, (round(last.execute_at.timestamp() * 1000), str(last.number)))
    packed = within_limit(map(messages.schedule_to_message, found[:size]), SMALLER_PAGE)
    return pb.ListSchedulesResponse(schedules=packed, next_page_token=more).SerializeToString()


def _encoded(response_type: Any, schedule: Schedule, **fields: Any) -> bytes:
    """Return the response's bytes: a planned change may have the size of a flag."""
    encoded: bytes = response_type(schedule=messages.schedule_to_message(schedule), **fields).SerializeToString()
    return encoded


def _position(token: str) -> tuple[int, int] | None:
    position = from_page_token(_LISTING, token)
    if position is None:
        return None
    if not position[1].isdecimal() or len(position[1]) > 18 or abs(position[0]) > 253_402_300_799_999:  # noqa: PLR2004
        raise bad_page_token(token)
    return position[0], int(position[1])


def _id(schedule_id: str, field: str = "id") -> str:
    if not schedule_id.isalnum() or len(schedule_id) > _MAX_ID:
        raise invalid(field, schedule_id, "the id of a schedule: letters and digits")
    return schedule_id
