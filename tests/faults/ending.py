"""The state at the end of a run, when no fault is active and nobody writes."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import grpc
from bson import ObjectId

from flagsvc.core.documents import to_document
from flagsvc.core.revisions.packing import unpack
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from tests.faults.answers import NOT_FOUND, STALE
from tests.faults.cluster import VERIFY_S, Cluster
from tests.faults.history import known_fields
from tests.faults.record import NO_VALUE, FaultWindow, Story
from tests.faults.replica import Replica
from tests.faults.timeline import Content
from tests.replica_sets import ELECTION_S

_WAIT_S = 6.0
_AUDIT_S = 1.2 * VERIFY_S + _WAIT_S
"""Within this time the holder of the cache lease has audited the cache once, whichever replica holds it."""
_DUE_S = 20.0
_POLL_S = 0.1
_ASKED_S = 3.0
_EXAMPLES = 5
SPONTANEOUS_ELECTION = "mongod spontaneous election"
SILENT_S = 1.5 * ELECTION_S
"""An election starts when nothing was heard from the primary for `ELECTION_S`, or a little later."""
Documents = Mapping[str, Mapping[str, Any]]


async def look_at_the_end(cluster: Cluster, story: Story) -> None:
    """Wait, with a limit, until every replica answers what MongoDB has; then compare everything with everything."""
    ending = story.ending
    database = await cluster.mongods.database()
    await _until_nothing_is_due(database["flagsvc_schedules"])  # what they change would differ from what is compared
    ending.healed = time.monotonic()
    await asyncio.gather(*(_recover(cluster, story, replica) for replica in cluster.replicas))
    for wrong in await asyncio.gather(*(_lagging(cluster, replica) for replica in cluster.replicas)):
        ending.lagging += wrong
    for replica in cluster.replicas:
        await _compare_redis(story, replica)
    ending.history = [_plain(row) async for row in database["feature_flag_history"].find()]
    ending.documents = [_plain(row) async for row in database["feature_flags"].find()]
    ending.audit = [_plain(row) async for row in database["flagsvc_audit"].find()]
    schedules = database["flagsvc_schedules"].find({"flagKey": {"$exists": True}})
    ending.schedules = [_plain(row) async for row in schedules]
    ending.definitions = [_kept(row) async for row in database["flagsvc_definitions"].find()]
    story.faults += spontaneous_elections(await cluster.mongods.elections(), story)


def spontaneous_elections(elections: Iterable[float], story: Story) -> list[FaultWindow]:
    """Return the elections that no fault caused: those of mongods that got no CPU for the election time-out."""
    asked = [fault for fault in story.faults if fault.kind.startswith("mongod ")]
    return [
        FaultWindow(0, SPONTANEOUS_ELECTION, "mongods", moment - SILENT_S, moment)
        for moment in elections
        if moment >= story.began and not any(fault.begin <= moment <= fault.end for fault in asked)
    ]


async def _until_nothing_is_due(schedules: Any) -> None:
    for _ in range(round(_DUE_S / _POLL_S)):
        if await schedules.find_one({"state": "PENDING"}) is None:
            return
        await asyncio.sleep(_POLL_S)


def _kept(row: Mapping[str, Any]) -> dict[str, Any]:
    key, revision = row["key"], int(row["revision"])
    found: dict[str, Any] = {"key": key, "revision": revision, "gone": bool(row["gone"])}
    if row.get("definition") is None:
        return found
    return found | known_fields(to_document(unpack(bytes(row["definition"]), key, row["flagSet"], revision)))


async def _recover(cluster: Cluster, story: Story, replica: Replica) -> None:
    wrong = ["it was not asked"]
    while wrong and time.monotonic() - story.ending.healed < _WAIT_S:
        asked_at = time.monotonic()
        wrong = await _differences(cluster, story, replica)
        story.ending.recovered_s[replica.named] = math.inf if wrong else asked_at - story.ending.healed
        await asyncio.sleep(_POLL_S)
    story.ending.differences += [f"{replica.named}: {each}" for each in wrong[:_EXAMPLES]]


async def _differences(cluster: Cluster, story: Story, replica: Replica) -> list[str]:
    """Compare what a replica answers with what MongoDB has."""
    request = pb.BatchEvaluateFlagsRequest(flag_keys=story.flags)
    try:
        answer = await replica.stub.BatchEvaluateFlags(request, metadata=replica.access.root, timeout=_ASKED_S)
    except grpc.aio.AioRpcError as error:
        return [f"it answers {error.code().name}"]
    database = await cluster.mongods.database()
    documents = {row["key"]: row async for row in database["feature_flags"].find()}
    return [problem for each in answer.evaluations if (problem := _difference(each, documents.get(each.flag_key)))]


def _difference(found: pb.FlagEvaluation, document: Mapping[str, Any] | None) -> str:
    if document is None:
        return "" if found.error_code == NOT_FOUND else f"{found.flag_key} is answered and not in MongoDB"
    if found.reason == STALE:
        return f"{found.flag_key} is answered as STALE"
    held = known_fields(document)
    wanted = Content.of((held["status"], held.get("value", NO_VALUE)))
    shown = Content(found.status, found.value.integer_value if found.HasField("value") else NO_VALUE)
    revision = int(document.get("revision") or 0)
    if shown == wanted and found.revision == revision:
        return ""
    return f"{found.flag_key} is {tuple(shown)} at {found.revision}; MongoDB has {tuple(wanted)} at {revision}"


async def _lagging(cluster: Cluster, replica: Replica) -> list[str]:
    """Return what a replica reports that should not be so once everything is healthy."""
    wrong = ["it was not asked"]
    until = time.monotonic() + _WAIT_S
    names = {each.incarnation.name for each in cluster.replicas}
    while wrong and time.monotonic() < until:
        try:
            status = await replica.stub.GetStatus(pb.GetStatusRequest(), metadata=replica.access.root, timeout=_ASKED_S)
        except grpc.aio.AioRpcError as error:
            wrong = [f"status: {error.code().name}"]
        else:
            known = {each.replica: each for each in status.replicas}
            wrong = [f"does not know {name}" for name in names if name not in known]
            wrong += [f"{name} lags by {known[name].lag}" for name in names if name in known and known[name].lag]
            wrong += [] if status.complete else ["status is not complete"]
        await asyncio.sleep(_POLL_S)
    return [f"{replica.named}: {each}" for each in wrong]


async def _compare_redis(story: Story, replica: Replica) -> None:
    """Compare what Redis has, once the last changes have reached it: that happens in the background.

    After an old dump the lease's holder puts what there is. What there is not, an entry of a deleted flag, no replica
    answers from; the next audit removes it.
    """
    began = time.monotonic()
    try:
        while True:
            request, metadata = pb.VerifyCacheRequest(), replica.access.root
            found = await replica.stub.VerifyCache(request, metadata=metadata, timeout=_WAIT_S)
            only_deleted = all(drift.kind == pb.DRIFT_KIND_DELETED for drift in found.drifts)
            if not found.drifted or time.monotonic() - began > (_AUDIT_S if only_deleted else _WAIT_S):
                break
            await asyncio.sleep(_POLL_S)
    except grpc.aio.AioRpcError as error:
        story.ending.differences.append(f"{replica.named}: Redis could not be compared: {error.code().name}")
        return
    story.ending.compared = max(story.ending.compared, found.checked)
    story.ending.drifted = max(story.ending.drifted, found.drifted)
    for drift in found.drifts[:_EXAMPLES]:
        kind = pb.DriftKind.Name(drift.kind)
        revisions = f"MongoDB has {drift.stored_revision}, Redis {drift.cached_revision}"
        story.ending.differences.append(f"{replica.named}: {drift.flag_key}: {kind}: {revisions}")


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document as JSON shows it."""
    return {name: _plain_value(value) for name, value in row.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _plain(value)
    if isinstance(value, datetime | ObjectId):
        return str(value)
    return value
