"""How replicas stand: packed by a server, shown by the command line."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from flagsvc.api.flag_service.replica_messages import status_to_message, verified_to_message
from flagsvc.cli import replica_commands, wait_for
from flagsvc.core.model import FlagId
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.replication.cache_audit import AuditReport, DriftedEntry, DriftKind
from flagsvc.replication.heartbeats import Report

WELL = Report(
    replica="a",
    version="1.2.3",
    started_at=datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC),
    revisions={"default": 7, "staging": 2},
    view_age_s=0.25,
    staleness_bound_s=5.0,
    ready=True,
    store_up=True,
    cache_up=True,
    subscription_up=True,
    change_feed="stream",
    change_feed_up=True,
    holds_cache_lease=True,
    flags=3,
)


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
    told = capsys.readouterr()
    return status, told.out, told.err


def status_of(*reports: Report, age_s: float = 0.5, complete: bool = True) -> pb.GetStatusResponse:
    return status_to_message([(report, age_s) for report in reports], answered_by="a", complete=complete)


def test_a_report_as_a_message() -> None:
    behind = replace(WELL, replica="b", revisions={"default": 5, "other": 1}, view_age_s=None, change_feed="none")
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
    assert first.started_at.ToDatetime(tzinfo=UTC) == WELL.started_at
    assert (second.lag, second.view_age_ms, second.reported_ms_ago) == (2 + 2, -1, 1500)
    assert second.change_feed == pb.CHANGE_FEED_NONE
    polling = status_of(replace(WELL, change_feed="polling"))
    assert polling.replicas[0].change_feed == pb.CHANGE_FEED_POLLING


@pytest.mark.parametrize(
    ("report", "told"),
    [
        (replace(WELL, ready=False, store_up=False), "is not ready: the store does not answer it; see that it runs"),
        (replace(WELL, ready=False), "is not ready: it has not read the store yet; ask again"),
        (replace(WELL, view_age_s=None), "was never read, and its bound is 5 s"),
        (replace(WELL, view_age_s=5.1), "is 5.1 s old, and its bound is 5 s: it says STALE"),
    ],
)
def test_what_is_wrong_with_a_replica_is_told_with_what_to_do(
    capsys: pytest.CaptureFixture[str], report: Report, told: str
) -> None:
    status, _, err = shown(capsys, status_of(replace(report, replica="b"), WELL))
    assert status == 1
    assert err.startswith("error: b")
    assert told in err
    assert err.count("\n") == 1, "a is well"
    status, out, _ = shown(capsys, status_of(replace(report, replica="b"), WELL), as_json=True)
    assert (status, len(json.loads(out)["problems"])) == (1, 1)


def test_a_replica_that_is_silent_is_no_good_whatever_it_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, status_of(WELL, age_s=2.9))[0] == 0
    status, _, err = shown(capsys, status_of(WELL, age_s=3.5))
    assert (status, err.startswith("error: a has not reported for 3.5 s")) == (1, True)


def test_lag_is_what_a_replica_still_lacks_when_it_has_reported_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_commands, "RETRY_DELAY_S", 0)
    first = replace(WELL, replica="b", revisions={"default": 5, "staging": 2})
    caught_up = replace(first, revisions={"default": 7, "staging": 2})
    newer = replace(WELL, revisions={"default": 9, "staging": 2})
    status, out, err = shown(capsys, status_of(WELL, first), status_of(newer, caught_up))
    assert (status, err) == (0, "")
    assert " 2 " in out, "as it was told"
    still = replace(first, revisions={"default": 6, "staging": 0})
    status, _, err = shown(capsys, status_of(WELL, first), status_of(newer, still))
    assert status == 1
    assert err == "error: b lags by 3 changes: it has 5 s to catch up; if it does not, look into its log\n"


def test_how_foreign_changes_are_learned_and_within_which_bound(capsys: pytest.CaptureFixture[str]) -> None:
    feeds = {"stream": "stream", "polling": "polling, within 5 s", "none": "-"}
    for feed, told in feeds.items():
        assert told in shown(capsys, status_of(replace(WELL, change_feed=feed)))[1]
    assert "stream (down)" in shown(capsys, status_of(replace(WELL, change_feed_up=False)))[1]


def test_who_answers_who_keeps_and_that_there_may_be_more(capsys: pytest.CaptureFixture[str]) -> None:
    others = [replace(WELL, replica="b", holds_cache_lease=False), replace(WELL, replica="c", holds_cache_lease=True)]
    status, out, _ = shown(capsys, status_of(replace(WELL, holds_cache_lease=False), *others, complete=False))
    assert status == 0
    assert [line.split("  ")[0] for line in out.splitlines()[1:4]] == ["a (answers)", "b", "c (cache lease)"]
    assert "2030-01-02 03:04:05Z" in out
    assert "there may be more" in out.splitlines()[4]
    assert "there may be more" not in shown(capsys, status_of(WELL))[1]
    assert "a (answers, cache lease)" in shown(capsys, status_of(WELL))[1]


def test_every_kind_of_drift_has_a_name_for_people_and_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    drifts = [DriftedEntry(FlagId("default", kind.lower()), 0, 9, kind) for kind in DriftKind]
    message = verified_to_message(AuditReport(checked=1_234, drifted=4, repaired=0, missing=2, drifts=drifts))
    status, out, err = shown(capsys, message, command=replica_commands.verify)
    assert status == 1
    for told in ("older than the store", "newer than the store", "another definition", "not in the store"):
        assert told in out
    assert "1,234 cached entries compared to the store: 4 wrong, 0 repaired" in out
    assert "2 flags are not cached, which is no fault" in out
    assert "flagsvc verify --repair" in err
    _, out, _ = shown(capsys, message, command=replica_commands.verify, as_json=True)
    assert [drift["kind"] for drift in json.loads(out)["drifts"]] == ["OLDER", "NEWER", "DIFFERENT", "DELETED"]


def test_a_verdict_is_good_when_all_is_repaired_and_says_how_many_are_not_listed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    drifts = [DriftedEntry(FlagId("default", "x"), 2, 1, DriftKind.OLDER, repaired=True)]
    message = verified_to_message(AuditReport(checked=9, drifted=5, repaired=5, drifts=drifts))
    status, out, err = shown(capsys, message, command=replica_commands.verify)
    assert (status, err) == (0, "")
    assert "and 4 more" in out
    assert "not cached" not in out
    message.checked = message.missing = 1
    _, out, _ = shown(capsys, message, command=replica_commands.verify)
    assert "1 cached entry compared to the store: 5 wrong, 5 repaired\n1 flag is not cached, which is no fault" in out
    message.repaired = 4
    assert "1 entry is not what the store has" in shown(capsys, message, command=replica_commands.verify)[2]


OTHERS = "other replicas see it by themselves within their staleness bound; the change IS stored"
STORED, CACHED = pb.WRITE_LEVEL_STORED, pb.WRITE_LEVEL_CACHED


@pytest.mark.parametrize(
    ("level", "reached", "told"),
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
                " (they answer with the change by themselves within their staleness bounds); the change IS stored",
            ],
        ),
        (
            "applied",
            pb.WriteSpread(reached=STORED, applied_by=["a"]),
            [
                "error: not applied everywhere after 5 s: applied by a;",
                " who else lives is not known without the shared cache; ",
                OTHERS,
            ],
        ),
        (
            "cached",
            pb.WriteSpread(reached=STORED, applied_by=["a"]),
            ["error: not cached after 5 s: the shared cache cannot be reached, or there is none; ", OTHERS],
        ),
    ],
)
def test_how_far_a_change_has_spread_is_told_to_who_asked(
    capsys: pytest.CaptureFixture[str], level: str, reached: pb.WriteSpread, told: list[str]
) -> None:
    args = argparse.Namespace(wait_for=level, wait_timeout=None, json=False)
    status = wait_for.tell(args, reached)
    captured = capsys.readouterr()
    wrong = told[0].startswith("error")
    assert status == (3 if wrong else 0)
    assert (captured.err if wrong else captured.out) == "".join(told) + "\n"
    assert (captured.out if wrong else captured.err) == ""
    args.json = True
    assert (wait_for.tell(args, reached), capsys.readouterr().out) == (status, "")
    args.wait_for = None
    assert (wait_for.tell(args, reached), capsys.readouterr().err) == (0, "")


def test_a_write_has_the_time_of_a_call_and_what_it_waits_for_on_top() -> None:
    args = argparse.Namespace(wait_for="applied", wait_timeout=None, timeout=2.0)
    assert wait_for.deadline_s(args) == 7.0
    assert wait_for.wanted(args)["wait_timeout"].ToTimedelta().total_seconds() == 5.0
    args.wait_timeout = 0.5
    assert wait_for.deadline_s(args) == 2.5
    args.wait_for = args.wait_timeout = None
    assert wait_for.deadline_s(args) == 2.0
    assert wait_for.wanted(args) == {}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "null", '{"replica": "a"}', "not json"],
)
def test_a_report_that_is_none_is_left_out(text: str) -> None:
    assert Report.of_text(text) is None


@pytest.mark.parametrize(("name", "wrong"), [("flags", "many"), ("ready", 1), ("revisions", {"default": "7"})])
def test_a_report_with_a_value_of_another_type_is_left_out(name: str, wrong: object) -> None:
    good = json.loads(WELL.to_text())
    assert Report.of_text(json.dumps(good)) is not None
    assert Report.of_text(json.dumps({**good, name: wrong})) is None
