"""How replicas stand: packed by a server, shown by the command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from flagsvc.adapters.redis.messages import event_in, heartbeat_text
from flagsvc.api.flag_service.replica_messages import audit_report_to_message, status_to_message
from flagsvc.cli import replica_commands, wait_for
from flagsvc.core.model import FlagId
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.ports import Heartbeat, ReplicaStatus
from flagsvc.replication.cache_audit import AuditReport, DriftedEntry, DriftKind
from tests.stores import STORE

STATUS = ReplicaStatus(
    version="1.2.3",
    started_at=datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC),
    view_age_s=0.25,
    staleness_bound_s=5.0,
    ready=True,
    store_up=True,
    cache_up=True,
    subscription_up=True,
    change_feed="stream",
    change_feed_up=True,
    lease_left_s=4.0,
    flags=3,
)
REVISIONS = {"default": 7, "staging": 2}


def heartbeat(replica: str = "a", revisions: Mapping[str, int] = REVISIONS, **status: Any) -> Heartbeat:
    return Heartbeat(replica=replica, number=1, revisions=revisions, status=replace(STATUS, **status))


WELL = heartbeat()
OURS = f'"store":["{STORE.id}","{STORE.name}"]'


class Stub:
    """Answers with one message after the other, the last one again and again."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def GetStatus(self, _: pb.GetStatusRequest, timeout: float) -> Any:  # noqa: N802  as gRPC names it
        assert timeout == 5
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    VerifyCache = GetStatus


def shown(
    capsys: pytest.CaptureFixture[str], *answers: Any, command: Any = replica_commands.status, as_json: bool = False
) -> tuple[int, str, str]:
    args = argparse.Namespace(timeout=5, json=as_json, repair=False)
    status = command(args, Stub(*answers))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def status_of(*heartbeats: Heartbeat, age_s: float = 0.5, complete: bool = True) -> pb.GetStatusResponse:
    return status_to_message([(each, age_s) for each in heartbeats], answered_by="a", complete=complete)


def test_heartbeats_as_a_message() -> None:
    behind = heartbeat(replica="b", revisions={"default": 5, "other": 1}, view_age_s=None, change_feed="none")
    message = status_to_message([(behind, 1.5), (WELL, 0.0)], answered_by="a", complete=False)
    assert (message.answered_by, message.complete) == ("a", False)
    assert [r.replica for r in message.replicas] == ["a", "b"]
    first, second = message.replicas
    assert first == pb.ReplicaStatus(
        replica="a",
        version="1.2.3",
        started_at=first.started_at,
        revisions={"default": 7, "staging": 2},
        lag=1,
        view_age_ms=250,
        staleness_bound_ms=5000,
        ready=True,
        store_up=True,
        cache_up=True,
        subscription_up=True,
        change_feed=pb.CHANGE_FEED_STREAM,
        change_feed_up=True,
        holds_cache_lease=True,
        flags=3,
    )
    assert first.started_at.ToDatetime(tzinfo=UTC) == STATUS.started_at
    assert (second.lag, second.view_age_ms, second.reported_ms_ago) == (2 + 2, -1, 1500)
    assert second.change_feed == pb.CHANGE_FEED_NONE
    polling = status_of(heartbeat(change_feed="polling"))
    assert polling.replicas[0].change_feed == pb.CHANGE_FEED_POLLING


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (
            heartbeat(ready=False, store_up=False),
            "is not ready: it cannot reach the store; check that the store is running",
        ),
        (heartbeat(ready=False), "is not ready: it has not loaded the flags yet; retry"),
        (heartbeat(view_age_s=None), "was never verified (staleness bound 5 s)"),
        (heartbeat(view_age_s=5.1), "is 5.1 s old (staleness bound 5 s): it answers with reason STALE"),
    ],
)
def test_a_replicas_problem_is_reported_with_what_to_do(
    capsys: pytest.CaptureFixture[str], report: Heartbeat, expected: str
) -> None:
    status, _, err = shown(capsys, status_of(replace(report, replica="b"), WELL))
    assert status == 1
    assert err.startswith("error: b")
    assert expected in err
    assert err.count("\n") == 1, "a is well"
    status, out, _ = shown(capsys, status_of(replace(report, replica="b"), WELL), as_json=True)
    assert (status, len(json.loads(out)["problems"])) == (1, 1)


def test_a_silent_replica_is_a_problem_whatever_its_last_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, status_of(WELL, age_s=2.9))[0] == 0
    status, _, err = shown(capsys, status_of(WELL, age_s=3.5))
    assert (status, err.startswith("error: a has not reported for 3.5 s")) == (1, True)


def test_lag_is_what_a_replica_lacks_after_its_next_heartbeat(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_commands, "RETRY_DELAY_S", 0)
    first = heartbeat(replica="b", revisions={"default": 5, "staging": 2})
    caught_up = replace(first, revisions={"default": 7, "staging": 2})
    newer = heartbeat(revisions={"default": 9, "staging": 2})
    status, out, err = shown(capsys, status_of(WELL, first), status_of(newer, caught_up))
    assert (status, err) == (0, "")
    assert "\nb\tready\tcache lease\t2\t" in out, "the lag as reported"
    still = replace(first, revisions={"default": 6, "staging": 0})
    status, _, err = shown(capsys, status_of(WELL, first), status_of(newer, still))
    assert status == 1
    assert err == "error: b lags by 3 changes: if it does not catch up within 5 s, check its log\n"


def test_the_kind_of_change_feed_and_its_bound_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    feeds = {"stream": "stream", "polling": "polling, within 5 s", "none": "-"}
    for feed, expected in feeds.items():
        assert expected in shown(capsys, status_of(heartbeat(change_feed=feed)))[1]
    assert "stream (down)" in shown(capsys, status_of(heartbeat(change_feed_up=False)))[1]


def test_who_answers_who_holds_the_lease_and_that_the_list_may_be_incomplete(
    capsys: pytest.CaptureFixture[str],
) -> None:
    others = [heartbeat(replica="b", lease_left_s=0.0), heartbeat(replica="c")]
    status, out, err = shown(capsys, status_of(heartbeat(lease_left_s=0.0), *others, complete=False))
    assert status == 0
    rows = [line.split("\t") for line in out.splitlines()[1:]]
    assert [(row[0], row[2]) for row in rows] == [("a", "answers"), ("b", "-"), ("c", "cache lease")]
    assert "2030-01-02T03:04:05Z" in out
    assert err.startswith("the list may be incomplete")
    _, out, err = shown(capsys, status_of(WELL))
    assert ("\tanswers, cache lease\t" in out, err) == (True, "")


def test_every_kind_of_drift_has_a_name_for_people_and_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    drifts = [DriftedEntry(FlagId("default", kind.lower()), 0, 9, kind) for kind in DriftKind]
    message = audit_report_to_message(AuditReport(checked=1_234, drifted=4, repaired=0, missing=2, drifts=drifts))
    status, out, err = shown(capsys, message, command=replica_commands.verify)
    assert status == 1
    for expected in ("older than the store", "newer than the store", "different definition", "not in the store"):
        assert expected in out
    assert "1,234 cached entries compared with the store: 4 different, 0 repaired" in out
    assert "2 flags are not cached; this is not an error" in out
    assert "flagsvc verify --repair" in err
    _, out, _ = shown(capsys, message, command=replica_commands.verify, as_json=True)
    assert [drift["kind"] for drift in json.loads(out)["drifts"]] == ["OLDER", "NEWER", "DIFFERENT", "DELETED"]


def test_an_audit_with_everything_repaired_succeeds_and_counts_what_is_not_listed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    drifts = [DriftedEntry(FlagId("default", "x"), 2, 1, DriftKind.OLDER, repaired=True)]
    message = audit_report_to_message(AuditReport(checked=9, drifted=5, repaired=5, drifts=drifts))
    status, out, err = shown(capsys, message, command=replica_commands.verify)
    assert (status, err) == (0, "")
    assert "and 4 more" in out
    assert "not cached" not in out
    message.checked = message.missing = 1
    _, out, _ = shown(capsys, message, command=replica_commands.verify)
    assert (
        "1 cached entry compared with the store: 5 different, 5 repaired\n1 flag is not cached; this is not an error"
        in out
    )
    message.repaired = 4
    assert "1 entry differs from the store" in shown(capsys, message, command=replica_commands.verify)[2]


OTHERS = "other replicas will see it within their staleness bound; the change IS stored"
STORED, CACHED = pb.WRITE_LEVEL_STORED, pb.WRITE_LEVEL_CACHED


@pytest.mark.parametrize(
    ("level", "reached", "expected"),
    [
        ("stored", pb.WriteSpread(revision=7, reached=CACHED), ["revision 7: stored"]),
        ("cached", pb.WriteSpread(revision=7, reached=CACHED), ["revision 7: stored, cached and announced"]),
        (
            "applied",
            pb.WriteSpread(revision=7, reached=pb.WRITE_LEVEL_APPLIED, applied_by=["a", "b"]),
            ["revision 7: applied by 2 replicas (a, b)"],
        ),
        (
            "applied",
            pb.WriteSpread(reached=CACHED, applied_by=["a"], lagging=["b", "c"]),
            [
                "error: not applied everywhere after 5 s: applied by a; lagging: b, c",
                " (they will see the change within their staleness bounds); the change IS stored",
            ],
        ),
        (
            "applied",
            pb.WriteSpread(reached=STORED, applied_by=["a"]),
            [
                "error: not applied everywhere after 5 s: applied by a;",
                " without the shared cache other live replicas are unknown; ",
                OTHERS,
            ],
        ),
        (
            "cached",
            pb.WriteSpread(reached=STORED, applied_by=["a"]),
            [
                "error: not cached after 5 s: the shared cache is unreachable, refuses writes, or is not configured;",
                f" see: flagsvc status; {OTHERS}",
            ],
        ),
    ],
)
def test_the_reached_level_is_reported_if_it_was_asked_for(
    capsys: pytest.CaptureFixture[str], level: str, reached: pb.WriteSpread, expected: list[str]
) -> None:
    args = argparse.Namespace(wait_for=level, wait_timeout=None, json=False)
    status = wait_for.report_spread(args, reached)
    captured = capsys.readouterr()
    wrong = expected[0].startswith("error")
    assert status == (3 if wrong else 0)
    assert (captured.err if wrong else captured.out) == "".join(expected) + "\n"
    assert (captured.out if wrong else captured.err) == ""
    args.json = True
    assert (wait_for.report_spread(args, reached), capsys.readouterr().out) == (status, "")
    args.wait_for = None
    assert (wait_for.report_spread(args, reached), capsys.readouterr().err) == (0, "")


def test_a_write_may_take_the_time_of_a_call_plus_its_wait() -> None:
    args = argparse.Namespace(wait_for="applied", wait_timeout=None, timeout=2.0)
    assert wait_for.deadline_s(args) == 7.0
    assert wait_for.request_fields(args)["wait_timeout"].ToTimedelta().total_seconds() == 5.0
    args.wait_timeout = 0.5
    assert wait_for.deadline_s(args) == 2.5
    args.wait_for = args.wait_timeout = None
    assert wait_for.deadline_s(args) == 2.0
    assert wait_for.request_fields(args) == {}


@pytest.mark.parametrize("text", ["", "[]", f"{{{OURS}}}", "null", f'{{"replica": "a",{OURS}}}', "not json"])
def test_what_is_no_heartbeat_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"Expecting|neither"):
        event_in(text.encode(), STORE.id)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("flags", "many"),
        ("ready", 1),
        ("started_at", 7),
        ("version", None),
        ("flags", 1.5),
        ("flags", 2**70),
        ("staleness_bound_s", 1e13),
        ("view_age_s", -1),
        ("lease_left_s", "1"),
        ("version", "\ud800"),
        ("version", "x" * 2_001),
        ("started_at", "0001-01-01T00:00:00+14:00"),
        ("problems", [["a", "b"]]),
        ("problems", [["a", "b", "c"]] * 101),
        ("problems", 7),
        ("change_feed", {}),
    ],
)
def test_a_replica_whose_status_cannot_be_understood_is_left_out(name: str, wrong: object) -> None:
    good = json.loads(heartbeat_text(WELL, STORE))
    assert event_in(json.dumps(good).encode(), STORE.id) == WELL
    read = event_in(json.dumps({**good, "status": {**good["status"], name: wrong}}).encode(), STORE.id)
    assert read == replace(WELL, status=None)
    assert not status_to_message([(replace(WELL, status=None), 0.0)], answered_by="b", complete=True).replicas
