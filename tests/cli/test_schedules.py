"""`flagsvc schedule` and `flagsvc schedules` on a real server."""

from __future__ import annotations

import json
import re
import time

import pytest

from tests.cli.test_commands import output, run

pytestmark = pytest.mark.xdist_group("cli commands")


def planned(address: str, *arguments: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(output(address, "schedule", *arguments, "--json"))
    return found


def test_a_change_is_planned_listed_moved_and_cancelled(address: str) -> None:
    output(address, "create", "plan-a")
    found = planned(address, "plan-a", "--status", "enabled", "--at", "2030-12-01T09:00", "--zone", "Europe/Berlin")
    assert (found["state"], found["at"], found["localTime"]) == (
        "PENDING",
        "2030-12-01T08:00:00.000Z",
        "2030-12-01T09:00:00+01:00",
    )
    assert (found["change"], found["onConflict"]) == ({"status": "ENABLED"}, "HOLD")
    schedule_id = str(found["id"])
    heading, row = output(address, "schedules", "list", "plan-a").splitlines()
    assert heading.split("\t")[:4] == ["id", "key", "at", "state"]
    assert row.split("\t")[:4] == [schedule_id, "plan-a", "2030-12-01T08:00:00Z", "PENDING"]
    moved = json.loads(output(address, "schedules", "update", schedule_id, "--at", "2030-12-02T09:00", "--json"))
    assert (moved["localTime"], moved["etag"]) == ("2030-12-02T09:00:00+01:00", '"2"')
    shown = output(address, "schedules", "cancel", schedule_id, "--reason", "no launch")
    assert "CANCELLED" in shown
    assert output(address, "schedules", "list", "-o", "name", "--all", "plan-a") == f"{schedule_id}\n"
    assert output(address, "schedules", "list", "-o", "name", "plan-a") == ""


def test_it_is_executed_and_the_history_says_by_which(address: str) -> None:
    output(address, "create", "plan-b")
    schedule_id = str(planned(address, "plan-b", "owner=payments", "--in", "3s", "--on-conflict", "apply")["id"])
    deadline = time.monotonic() + 30
    while "EXECUTED" not in output(address, "schedules", "show", schedule_id):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    newest = json.loads(output(address, "history", "plan-b", "--json"))[0]
    assert (newest["via"], newest["newValue"]) == (f"schedule/{schedule_id}", {"owner": "payments"})


def test_a_write_prints_which_schedules_it_touches_and_one_can_be_executed_now(address: str) -> None:
    output(address, "create", "plan-c")
    schedule_id = str(planned(address, "plan-c", "--status", "on", "--in", "1d")["id"])
    done = run(address, "toggle", "plan-c", "off")
    assert re.match(rf"note: schedule {schedule_id} changes status at 20\S+Z: it will be held then", done.stderr)
    assert json.loads(output(address, "toggle", "plan-c", "off", "--json"))["scheduleNotes"]
    executed = json.loads(output(address, "schedules", "execute", schedule_id, "--wait-for", "applied", "--json"))
    assert (executed["state"], executed["spread"]["reached"]) == ("EXECUTED", "APPLIED")
    again = run(address, "schedules", "execute", schedule_id, "--json")
    assert (again.returncode, json.loads(again.stderr)["error"]["code"]) == (1, "SCHEDULE_ENDED")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("plan-d", "--at", "2030-12-01T09:00"), 2, "name what is to change"),
        (("plan-d", "owner=a"), 2, "--at --in"),
        (("plan-d", "owner=a", "--in", "soon"), 2, "--in is 'soon'"),
        (("plan-d", "config.max=1", "--in", "1h"), 2, "plan the whole field"),
        (("plan-d", "owner=a", "--at", "tomorrow"), 1, "schedule.local_time"),
        (("plan-d", "owner=a", "--at", "2020-01-01T00:00"), 1, "schedule.execute_time"),
        (("plan-e", "owner=a", "--in", "1h"), 1, "did you mean plan-d?"),
    ],
)
def test_a_slip_is_named(address: str, arguments: tuple[str, ...], status: int, words: str) -> None:
    run(address, "create", "plan-d")
    done = run(address, "schedule", *arguments)
    assert (done.returncode, words in done.stderr) == (status, True), done.stderr
