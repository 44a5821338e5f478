"""Replica statuses and cache audit reports to messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from flagsvc.core.model import MAX_REVISION
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.ports import Heartbeat
from flagsvc.replication.cache_audit import AuditReport, DriftKind

_FEEDS: Mapping[str, pb.ChangeFeed.ValueType] = {
    "stream": pb.CHANGE_FEED_STREAM,
    "polling": pb.CHANGE_FEED_POLLING,
    "none": pb.CHANGE_FEED_NONE,
}
_KINDS = {kind: pb.DriftKind.Value(f"DRIFT_KIND_{kind}") for kind in DriftKind}


def status_to_message(
    heartbeats: Sequence[tuple[Heartbeat, float]], *, answered_by: str, complete: bool
) -> pb.GetStatusResponse:
    """Pack the replicas' heartbeats, each with its age in seconds, sorted by name."""
    newest: Counter[str] = Counter()
    for heartbeat, _ in heartbeats:
        newest |= Counter(heartbeat.revisions)  # the greatest revision of each set
    message = pb.GetStatusResponse(answered_by=answered_by, complete=complete)
    for heartbeat, age_s in sorted(heartbeats, key=lambda each: each[0].replica):
        report = heartbeat.status
        if report is None:  # of another version, which this one cannot read
            continue
        replica = message.replicas.add(
            replica=heartbeat.replica,
            version=report.version,
            reported_ms_ago=_milliseconds(age_s),
            revisions=heartbeat.revisions,
            # A set's revisions have no gaps, so a difference is a number of missing changes.
            lag=min((newest - Counter(heartbeat.revisions)).total(), MAX_REVISION),
            view_age_ms=-1 if report.view_age_s is None else _milliseconds(report.view_age_s),
            staleness_bound_ms=_milliseconds(report.staleness_bound_s),
            ready=report.ready,
            store_up=report.store_up,
            cache_up=report.cache_up,
            subscription_up=report.subscription_up,
            change_feed=_FEEDS.get(report.change_feed, pb.CHANGE_FEED_UNSPECIFIED),
            change_feed_up=report.change_feed_up,
            holds_cache_lease=report.lease_left_s > age_s,
            flags=report.flags,
            problems=(pb.Problem(**problem._asdict()) for problem in report.problems),
        )
        replica.started_at.FromDatetime(report.started_at)
    return message


def audit_report_to_message(found: AuditReport) -> pb.VerifyCacheResponse:
    """Pack the result of comparing the cache with the store."""
    message = pb.VerifyCacheResponse(
        checked=found.checked, drifted=found.drifted, repaired=found.repaired, missing=found.missing
    )
    for drift in found.drifts:
        message.drifts.add(
            flag_key=drift.id.key,
            flag_set=drift.id.flag_set,
            stored_revision=drift.stored_revision,
            cached_revision=drift.cached_revision,
            kind=_KINDS[drift.kind],
            repaired=drift.repaired,
        )
    return message


def _milliseconds(seconds: float) -> int:
    return max(0, int(seconds * 1000))
