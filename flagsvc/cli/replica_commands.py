"""Commands about all replicas and what they share: status, verify, resync and bucketing."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from datetime import UTC
from typing import Any

from flagsvc.cli import options, render
from flagsvc.cli.calls import Stub
from flagsvc.cli.failures import print_error
from flagsvc.cli.tables import Column, print_table
from flagsvc.cli.terminal import say
from flagsvc.core.model import DEFAULT_SET
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb

RETRY_DELAY_S = 1.5
"""Replicas report once a second: after this time each has reported again."""
MAX_REPORT_AGE_MS = 3_000
MAX_NAMED = 20
"""Flags that a command names."""
_STATUS = (
    *(Column("replica"), Column("state"), Column("notes", rank=4), Column("lag", rank=1)),
    *(Column("view age", rank=2), Column("revision", rank=3), Column("store", rank=5), Column("cache", rank=6)),
    *(Column("subscription", rank=9), Column("feed", rank=8, least=12), Column("flags", rank=7)),
    *(Column("version", rank=10), Column("up since", rank=11)),
)
_DRIFTS = (
    *(Column("key"), Column("set", rank=3), Column("in the store", rank=2), Column("in the cache", rank=2)),
    *(Column("difference", rank=1), Column("repaired", rank=4)),
)
_DRIFT_KINDS: Mapping[pb.DriftKind.ValueType, str] = {
    pb.DRIFT_KIND_OLDER: "older than the store",
    pb.DRIFT_KIND_NEWER: "newer than the store",
    pb.DRIFT_KIND_DIFFERENT: "different definition",
    pb.DRIFT_KIND_DELETED: "not in the store",
}


def status(args: argparse.Namespace, stub: Stub) -> int:
    """Show every replica; exit status 1 if one is not ready, stale, silent or lagging."""
    response = stub.GetStatus(pb.GetStatusRequest(), timeout=args.timeout)
    newest: dict[str, int] = {}
    if any(replica.lag for replica in response.replicas):
        # A change made since a replica's last report is not lag: only one that its next report lacks too.
        for replica in response.replicas:
            newest.update({s: max(r, newest.get(s, 0)) for s, r in replica.revisions.items()})
        time.sleep(RETRY_DELAY_S)
        response = stub.GetStatus(pb.GetStatusRequest(), timeout=args.timeout)
    problems = [problem for replica in response.replicas for problem in _problems(replica, newest)]
    if args.json:
        replicas = [_fields(replica) for replica in response.replicas]
        payload = {"replicas": replicas, "answeredBy": response.answered_by, "complete": response.complete}
        render.print_json({**payload, "problems": problems})
    else:
        rows = (_row(replica, response.answered_by, newest) for replica in response.replicas)
        print_table(_STATUS, rows, "no replicas")
        if not response.complete:
            cause = "replicas report through the shared cache, which is unreachable"
            say(f"the list may be incomplete: {cause}; see: flagsvc health --service cache", error=True)
    for problem in problems:
        print_error(problem, code="REPLICA_PROBLEM")
    return 1 if problems else 0


def verify(args: argparse.Namespace, stub: Stub) -> int:
    """Compare cache and store; exit status 1 if differences remain."""
    report = stub.VerifyCache(pb.VerifyCacheRequest(repair=args.repair), timeout=args.timeout)
    if args.json:
        counts = {name: getattr(report, name) for name in ("checked", "drifted", "repaired", "missing")}
        render.print_json({**counts, "drifts": [_drift_fields(drift) for drift in report.drifts]})
    else:
        _print_drifts(report)
    remaining = report.drifted - report.repaired
    if remaining:
        what = "1 entry differs" if remaining == 1 else f"{remaining:,} entries differ"
        advice = "the repair failed, retry" if args.repair else "repair with: flagsvc verify --repair"
        print_error(f"{what} from the store; {advice}", code="CACHE_DIFFERS")
    return 1 if remaining else 0


def resync(args: argparse.Namespace, stub: Stub) -> int:
    """Make every replica read the store again; exit status 1 if one has not, or without --confirm."""
    report = stub.Resync(pb.ResyncRequest(confirm=args.confirm), timeout=args.timeout)
    if args.json:
        lists = {"resynced": list(report.resynced), "waiting": list(report.waiting)}
        render.print_json({"done": report.done, "store": report.store, "flags": report.flags, **lists})
    elif report.done:
        print(f"{len(report.resynced)} replicas have read the store again: {report.flags:,} flags of {report.store}")
    else:
        print(f"this would make {len(report.waiting)} replicas drop what they hold ({report.flags:,} flags)")
        print(f"and read {report.store} again; what is in the shared cache would not count any more")
    if not report.done:
        print_error("nothing was done; to do it: flagsvc resync --confirm", code="NOT_CONFIRMED")
    elif report.waiting:
        names = ", ".join(report.waiting)
        print_error(f"not yet read again by {names}: check that they reach the store", code="NOT_REACHED")
    return 1 if report.waiting or not report.done else 0


def bucketing(args: argparse.Namespace, stub: Stub) -> int:
    """Show or change the bucketing of a set; exit status 1 where it is not what was asked for, or a change is open."""
    if args.version is None:
        found = stub.GetBucketing(pb.GetBucketingRequest(flag_set=args.flag_set), timeout=args.timeout)
        fields = {"flagSet": args.flag_set, "bucketing": found.bucketing, "outdated": found.outdated}
        render.print_json({**fields, "flagKeys": list(found.flag_keys)}) if args.json else render.print_fields(fields)
        if found.outdated:
            again = f"flagsvc bucketing {found.bucketing} --flag-set {args.flag_set} --force"
            text = f"{_named(found)} another one: a change was interrupted; end it by: {again}"
            print_error(text, code="BUCKETING_OUTDATED")
        return 1 if found.outdated else 0
    request = pb.SetBucketingRequest(flag_set=args.flag_set, bucketing=args.version, force=args.force)
    request.actor, request.reason = options.actor_of(args), args.reason
    report = stub.SetBucketing(request, timeout=args.timeout)
    if args.json:
        counts = {"done": report.done, "previous": report.previous, "bucketing": args.version, "moved": report.moved}
        render.print_json({**counts, "flagKeys": list(report.flag_keys), "revision": report.revision})
    elif report.done:
        say(f"flag set {args.flag_set!r} has bucketing {args.version}; moved: {_named(report)}")
    else:
        say(f"bucketing {report.previous} -> {args.version} would give people other variants of {_named(report)}")
    if not report.done:
        print_error("nothing was done; to do it, add --force", code="NOT_CONFIRMED")
    return 0 if report.done else 1


def _named(report: pb.GetBucketingResponse | pb.SetBucketingResponse) -> str:
    """Return how many flags a report has, and the names of some."""
    count = report.moved if isinstance(report, pb.SetBucketingResponse) else report.outdated
    names = ", ".join(report.flag_keys[:MAX_NAMED]) + (", ..." if count > MAX_NAMED else "")
    return f"{'1 flag' if count == 1 else f'{count:,} flags'}{f' ({names})' if names else ''}"


def _problems(replica: pb.ReplicaStatus, newest: Mapping[str, int]) -> Iterator[str]:
    """Yield a replica's problems: the one of its view, and those that it reports itself."""
    if problem := _view_problem(replica, newest):
        yield problem
    yield from (f"{replica.replica}: {each.detail}: {each.cure}" for each in replica.problems)


def _view_problem(replica: pb.ReplicaStatus, newest: Mapping[str, int]) -> str:
    """Return a replica's problem and what to do, empty if it is well; `newest`: revisions that it should have."""
    name, bound_s = replica.replica, replica.staleness_bound_ms / 1000
    behind = sum(max(0, revision - replica.revisions.get(of, 0)) for of, revision in newest.items())
    lags = f"lags by {'1 change' if behind == 1 else f'{behind:,} changes'}" if behind else ""
    if replica.reported_ms_ago > MAX_REPORT_AGE_MS:
        silence = f"has not reported for {replica.reported_ms_ago / 1000:.1f} s" + (f" and {lags}" if lags else "")
        return f"{name} {silence}: check whether it is paused, disconnected from the shared cache, or gone"
    if not replica.ready:
        loading = "it has not loaded the flags yet; retry, or check its log"
        cause = loading if replica.store_up else "it cannot reach the store; check that the store is running"
        return f"{name} is not ready: {cause}"
    if not 0 <= replica.view_age_ms <= replica.staleness_bound_ms:
        age = "was never verified" if replica.view_age_ms < 0 else f"is {replica.view_age_ms / 1000:.1f} s old"
        advice = "it answers with reason STALE; check that the store is running"
        return f"{name}: its view of the store {age} (staleness bound {bound_s:g} s): {advice}"
    if lags:
        return f"{name} {lags}: if it does not catch up within {bound_s:g} s, check its log"
    return ""


def _row(replica: pb.ReplicaStatus, answered_by: str, newest: Mapping[str, int]) -> tuple[Any, ...]:
    notes = ["answers"] * (replica.replica == answered_by) + ["cache lease"] * replica.holds_cache_lease
    without = "down" if any(each.name.startswith("cache") for each in replica.problems) else None
    return (
        replica.replica,
        _state(replica, newest),
        ", ".join(notes) or None,
        replica.lag,
        "never verified" if replica.view_age_ms < 0 else f"{replica.view_age_ms / 1000:.1f} s",
        replica.revisions.get(DEFAULT_SET, 0),
        "up" if replica.store_up else "down",
        "up" if replica.cache_up else without,
        "up" if replica.subscription_up else without,
        _feed(replica),
        replica.flags,
        replica.version,
        replica.started_at.ToDatetime(tzinfo=UTC),
    )


def _state(replica: pb.ReplicaStatus, newest: Mapping[str, int]) -> str:
    """Return a replica's state in a word; what is wrong stands under the table."""
    if replica.reported_ms_ago > MAX_REPORT_AGE_MS:
        return "silent"
    if not replica.ready:
        return "not ready"
    if not 0 <= replica.view_age_ms <= replica.staleness_bound_ms:
        return "stale"
    return "ready with problems" if any(_problems(replica, newest)) else "ready"


def _feed(replica: pb.ReplicaStatus) -> str:
    """How the replica learns of changes by other programs, and for polling within which time."""
    polling = f"polling, within {replica.staleness_bound_ms / 1000:g} s"
    feed = {pb.CHANGE_FEED_STREAM: "stream", pb.CHANGE_FEED_POLLING: polling}.get(replica.change_feed)
    return "-" if feed is None else feed if replica.change_feed_up else f"{feed} (down)"


def _fields(replica: pb.ReplicaStatus) -> dict[str, Any]:
    return {
        "replica": replica.replica,
        "version": replica.version,
        "startedAt": replica.started_at.ToDatetime(tzinfo=UTC),
        "reportedMsAgo": replica.reported_ms_ago,
        "revisions": dict(sorted(replica.revisions.items())),
        "lag": replica.lag,
        "viewAgeMs": None if replica.view_age_ms < 0 else replica.view_age_ms,
        "stalenessBoundMs": replica.staleness_bound_ms,
        "ready": replica.ready,
        "storeUp": replica.store_up,
        "cacheUp": replica.cache_up,
        "subscriptionUp": replica.subscription_up,
        "changeFeed": pb.ChangeFeed.Name(replica.change_feed).removeprefix("CHANGE_FEED_"),
        "changeFeedUp": replica.change_feed_up,
        "holdsCacheLease": replica.holds_cache_lease,
        "flags": replica.flags,
        "problems": [{"name": each.name, "detail": each.detail, "cure": each.cure} for each in replica.problems],
    }


def _print_drifts(report: pb.VerifyCacheResponse) -> None:
    if report.drifts:
        rows = (
            (
                drift.flag_key,
                drift.flag_set,
                drift.stored_revision or "-",
                drift.cached_revision,
                _DRIFT_KINDS.get(drift.kind, "different"),
                "yes" if drift.repaired else "no",
            )
            for drift in report.drifts
        )
        print_table(_DRIFTS, rows, "")
    if report.drifted > len(report.drifts):
        print(f"and {report.drifted - len(report.drifts):,} more")
    entries = "1 cached entry" if report.checked == 1 else f"{report.checked:,} cached entries"
    print(f"{entries} compared with the store: {report.drifted:,} different, {report.repaired:,} repaired")
    if report.missing:
        flags = "1 flag is" if report.missing == 1 else f"{report.missing:,} flags are"
        print(f"{flags} not cached; this is not an error, a flag is cached when it is next read")
    if any(drift.kind == pb.DRIFT_KIND_NEWER for drift in report.drifts):
        print("if the store was restored from a backup: flagsvc resync --confirm; replicas keep newer revisions")


def _drift_fields(drift: pb.Drift) -> dict[str, Any]:
    return {
        "flagKey": drift.flag_key,
        "flagSet": drift.flag_set,
        "storedRevision": drift.stored_revision or None,
        "cachedRevision": drift.cached_revision,
        "kind": pb.DriftKind.Name(drift.kind).removeprefix("DRIFT_KIND_"),
        "repaired": drift.repaired,
    }
