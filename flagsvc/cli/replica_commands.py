"""Commands about all replicas, and about the cache that they share."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from flagsvc.cli import render
from flagsvc.cli.service_commands import Stub
from flagsvc.core.model import DEFAULT_SET
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb

RETRY_DELAY_S = 1.5
"""Replicas report once a second: after this long, each has again."""
SILENT_MS = 3_000
_HEADS = ("replica", "version", "up since", "revision", "lag", "view age", "store", "cache", "channel", "feed", "flags")
_WRONG: Mapping[pb.DriftKind.ValueType, str] = {
    pb.DRIFT_KIND_OLDER: "older than the store",
    pb.DRIFT_KIND_NEWER: "newer than the store",
    pb.DRIFT_KIND_DIFFERENT: "another definition",
    pb.DRIFT_KIND_DELETED: "not in the store",
}


def status(args: argparse.Namespace, stub: Stub) -> int:
    """Show every replica; exit status 1 when one is not ready, too old in its view, silent, or lacks changes."""
    answer = stub.GetStatus(pb.GetStatusRequest(), timeout=args.timeout)
    newest: dict[str, int] = {}
    if any(replica.lag for replica in answer.replicas):
        # What was changed since a replica last reported is no lag of it: it has to lack that in its next report too.
        for replica in answer.replicas:
            newest.update({s: max(r, newest.get(s, 0)) for s, r in replica.revisions.items()})
        time.sleep(RETRY_DELAY_S)
        answer = stub.GetStatus(pb.GetStatusRequest(), timeout=args.timeout)
    troubles = [trouble for replica in answer.replicas if (trouble := _trouble(replica, newest))]
    if args.json:
        replicas = [_fields(replica) for replica in answer.replicas]
        told = {"replicas": replicas, "answeredBy": answer.answered_by, "complete": answer.complete}
        render.print_json({**told, "problems": troubles})
    else:
        render.print_table(_HEADS, (_row(replica, answer.answered_by) for replica in answer.replicas), "no replicas")
        if not answer.complete:
            print(
                "there may be more: replicas report in the shared cache, which cannot be asked now; see: flagsvc health"
            )
    for trouble in troubles:
        print(f"error: {trouble}", file=sys.stderr)
    return 1 if troubles else 0


def verify(args: argparse.Namespace, stub: Stub) -> int:
    """Compare cache and store; exit status 1 when something wrong is left."""
    found = stub.VerifyCache(pb.VerifyCacheRequest(repair=args.repair), timeout=args.timeout)
    if args.json:
        counts = {name: getattr(found, name) for name in ("checked", "drifted", "repaired", "missing")}
        render.print_json({**counts, "drifts": [_drift_fields(drift) for drift in found.drifts]})
    else:
        _show_drifts(found)
    left = found.drifted - found.repaired
    if left:
        what = "1 entry is" if left == 1 else f"{left:,} entries are"
        advice = "could not be put right; try again" if args.repair else "put it right with: flagsvc verify --repair"
        print(f"error: {what} not what the store has; {advice}", file=sys.stderr)
    return 1 if left else 0


def _trouble(replica: pb.ReplicaStatus, newest: Mapping[str, int]) -> str:
    """Say what is wrong with a replica and what to do, or nothing; `newest`: revisions that it should have by now."""
    name, bound_s = replica.replica, replica.staleness_bound_ms / 1000
    behind = sum(max(0, revision - replica.revisions.get(of, 0)) for of, revision in newest.items())
    lags = f"lags by {'1 change' if behind == 1 else f'{behind:,} changes'}" if behind else ""
    if replica.reported_ms_ago > SILENT_MS:
        silence = f"has not reported for {replica.reported_ms_ago / 1000:.1f} s" + (f" and {lags}" if lags else "")
        return f"{name} {silence}: see whether it is paused, cut off from the shared cache, or gone"
    if not replica.ready:
        reading = "it has not read the store yet; ask again, or look into its log"
        cause = reading if replica.store_up else "the store does not answer it; see that it runs"
        return f"{name} is not ready: {cause}"
    if not 0 <= replica.view_age_ms <= replica.staleness_bound_ms:
        age = "was never read" if replica.view_age_ms < 0 else f"is {replica.view_age_ms / 1000:.1f} s old"
        then = "it says STALE with what it knows until the store answers it; see that the store runs"
        return f"{name}: its view of the store {age}, and its bound is {bound_s:g} s: {then}"
    if lags:
        return f"{name} {lags}: it has {bound_s:g} s to catch up; if it does not, look into its log"
    return ""


def _row(replica: pb.ReplicaStatus, answered_by: str) -> tuple[Any, ...]:
    marks = [
        mark
        for mark, is_so in (("answers", replica.replica == answered_by), ("cache lease", replica.holds_cache_lease))
        if is_so
    ]
    return (
        replica.replica + (f" ({', '.join(marks)})" if marks else ""),
        replica.version,
        replica.started_at.ToDatetime(tzinfo=UTC),
        replica.revisions.get(DEFAULT_SET, 0),
        replica.lag,
        "never read" if replica.view_age_ms < 0 else f"{replica.view_age_ms / 1000:.1f} s",
        "up" if replica.store_up else "down",
        "up" if replica.cache_up else "-",
        "heard" if replica.subscription_up else "-",
        _feed(replica),
        replica.flags,
    )


def _feed(replica: pb.ReplicaStatus) -> str:
    """How changes by other programs are learned, and within which time where that is not at once."""
    match replica.change_feed:
        case pb.CHANGE_FEED_STREAM:
            feed = "stream"
        case pb.CHANGE_FEED_POLLING:
            feed = f"polling, within {replica.staleness_bound_ms / 1000:g} s"
        case _:
            return "-"
    return feed if replica.change_feed_up else f"{feed} (down)"


def _fields(replica: pb.ReplicaStatus) -> dict[str, Any]:
    started_at: datetime = replica.started_at.ToDatetime(tzinfo=UTC)
    return {
        "replica": replica.replica,
        "version": replica.version,
        "startedAt": started_at,
        "reportedMsAgo": replica.reported_ms_ago,
        "revisions": dict(sorted(replica.revisions.items())),
        "lag": replica.lag,
        "viewAgeMs": None if replica.view_age_ms < 0 else replica.view_age_ms,
        "stalenessBoundMs": replica.staleness_bound_ms,
        "ready": replica.ready,
        "storeUp": replica.store_up,
        "cacheUp": replica.cache_up,
        "channelHeard": replica.subscription_up,
        "changeFeed": pb.ChangeFeed.Name(replica.change_feed).removeprefix("CHANGE_FEED_"),
        "changeFeedUp": replica.change_feed_up,
        "holdsCacheLease": replica.holds_cache_lease,
        "flags": replica.flags,
    }


def _show_drifts(found: pb.VerifyCacheResponse) -> None:
    if found.drifts:
        rows = (
            (
                drift.flag_key,
                drift.flag_set,
                drift.stored_revision or "-",
                drift.cached_revision,
                _WRONG.get(drift.kind, "wrong"),
                "yes" if drift.repaired else "no",
            )
            for drift in found.drifts
        )
        render.print_table(("key", "set", "in the store", "in the cache", "what", "repaired"), rows, "")
    if found.drifted > len(found.drifts):
        print(f"and {found.drifted - len(found.drifts):,} more")
    entries = "1 cached entry" if found.checked == 1 else f"{found.checked:,} cached entries"
    print(f"{entries} compared to the store: {found.drifted:,} wrong, {found.repaired:,} repaired")
    if found.missing:
        flags = "1 flag is" if found.missing == 1 else f"{found.missing:,} flags are"
        print(f"{flags} not cached, which is no fault: each will be when it is asked for")
    if any(drift.kind == pb.DRIFT_KIND_NEWER for drift in found.drifts):
        print("newer than the store: was it restored from a backup? Restart every replica too: memory never goes back")


def _drift_fields(drift: pb.Drift) -> dict[str, Any]:
    return {
        "flagKey": drift.flag_key,
        "flagSet": drift.flag_set,
        "storedRevision": drift.stored_revision or None,
        "cachedRevision": drift.cached_revision,
        "kind": pb.DriftKind.Name(drift.kind).removeprefix("DRIFT_KIND_"),
        "repaired": drift.repaired,
    }
