"""Output that fits: sheets of what commands print at several widths and in a pipe, colours, forms and errors.

`python -m tests.cli.sheets` writes the sheets again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
import yaml

from flagsvc.api.flag_service.flag_messages import flag_to_message
from flagsvc.cli import entries, terminal, times, wait_for
from flagsvc.cli.tables import Column, laid_out
from flagsvc.core.model import Status
from flagsvc.generated.flagsvc.v1 import audit_service_pb2 as audit
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from tests.cli import answers, sheets
from tests.command_line import Terminal, run_here


@pytest.mark.parametrize("command", sheets.SHEETS)
def test_a_command_prints_what_its_sheet_says(command: str) -> None:
    assert sheets.sheet(command) == (sheets.FOLDER / f"{command}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", sheets.SHEETS)
def test_no_line_is_wider_than_the_terminal_and_every_key_is_whole(command: str) -> None:
    for part in sheets.sheet(command).partition("== piped")[0].split("== ")[1:]:
        columns, *lines = part.splitlines()
        keys = [flag.key for flag in answers.FLAGS] + [each.replica for each in answers.REPLICAS]
        keys += [*(each.id for each in answers.TOKENS), "user-0", *(each.name for each in answers.SEGMENTS)]
        too_wide = [line for line in lines if len(line) > int(columns.split()[0])]
        assert [line for line in too_wide if not any(key in line for key in keys)] == []
        assert any(key in part for key in keys)


def test_in_a_pipe_every_row_has_every_cell_and_no_padding() -> None:
    for command in sheets.SHEETS.keys() - {*sheets.FOR_PEOPLE, *sheets.SENTENCES}:
        rows = [line.split("\t") for line in sheets.sheet(command).split("== piped\n")[1].splitlines()]
        assert {len(row) for row in rows} == {len(rows[0])}
        assert all(cell == cell.strip() for row in rows for cell in row)


def test_columns_are_left_out_by_rank_after_texts_were_cut() -> None:
    columns = (Column("key"), Column("name", rank=1, least=6), Column("more", rank=2))
    rows = [("a-long-key", "a long name", "more")]
    assert laid_out(columns, rows, 40).lines[1] == ["a-long-key", "a long name", "more"]
    assert laid_out(columns, rows, 26).lines[1] == ["a-long-key", "a long …", "more"]
    assert laid_out(columns, rows, 23) == ([["key       ", "name       "], ["a-long-key", "a long name"]], ["more"])
    assert laid_out(columns, rows, 10).left_out == ["name", "more"]
    assert laid_out(columns, rows, 3).lines[1] == ["a-long-key"], "a key is never cut"


def test_states_have_colours_on_a_terminal_only_and_not_with_no_color() -> None:
    with answers.answered():
        terminal = Terminal(80, colours=True)
        assert terminal.run("list") == 0
        assert "\x1b[32mENABLED" in terminal.text
        plain = Terminal(80)
        plain.run("list")
        assert "\x1b" not in plain.text
        assert "\x1b" not in run_here("list").stdout


def test_every_form_of_a_list() -> None:
    with answers.answered():
        keys = [flag.key for flag in answers.FLAGS]
        assert run_here("list", "-o", "name").stdout.splitlines() == keys
        as_json = json.loads(run_here("list", "-o", "json").stdout)
        assert as_json == json.loads(run_here("list", "--json").stdout)
        assert [each["key"] for each in as_json] == keys
        assert yaml.safe_load(run_here("list", "-o", "yaml").stdout) == as_json
        wide = Terminal(60)
        wide.run("list", "-o", "wide")
        assert "2026-11-30 02:59:05Z (5 min ago)" in wide.text


def test_errors_are_json_where_the_output_is() -> None:
    done = run_here("list", "--json", "--address", "127.0.0.1:1")
    error = json.loads(done.stderr)["error"]
    assert (error["code"], error["status"], error["exitCode"], done.returncode) == ("UNREACHABLE", "UNAVAILABLE", 1, 1)
    for arguments in (("lst", "--json"), ("toggle", "a", "perhaps", "--json"), ("create", "a", "nme=b", "--json")):
        done = run_here(*arguments)
        error = json.loads(done.stderr)["error"]
        assert (error["code"], error["exitCode"], done.returncode) == ("USAGE", 2, 2), arguments


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s ago"), (59, "59 s ago"), (3_600, "1 h ago"), (-90_000, "in 1 d"), (366 * 86_400, "1 y ago")],
)
def test_how_long_ago_a_time_is(seconds: float, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert times.relative(datetime.fromtimestamp(2e9 - seconds, UTC)) == shown


class Restarted(answers.Server):
    """A server that was restarted while it was watched, so that it sends its set again, which has changed."""

    def _second_watch(self) -> Iterator[Any]:
        changed = replace(answers.FLAGS[1], status=Status.ENABLED, revision=48)
        flags = map(flag_to_message, (self._toggled(enabled=False), changed, answers.FLAGS[2]))
        yield pb.WatchFlagsResponse(snapshot=pb.FlagSnapshot(flags=flags), resume_revision=49)
        raise KeyboardInterrupt


def test_watch_shows_what_changed_while_it_was_away() -> None:
    terminal = Terminal(80)
    with answers.answered(Restarted):
        assert terminal.run("watch") == 0
    shown = terminal.text.partition("again after 1 s")[2].splitlines()[1:]
    assert shown == [
        "3 flags at revision 49",
        "03:04:05Z  banner-text-of-the-start-page-in-all-languages  UPDATED  revision 48",
        "    status: BETA -> ENABLED",
        "03:04:05Z  old  DELETED  revision 49",
    ]


class Paged(answers.Server):
    """A server with an audit log of many pages, each of three entries."""

    asked: ClassVar[list[str]] = []

    def ListAuditEntries(self, request: Any, timeout: float) -> Any:  # noqa: N802
        self.asked.append(request.page_token)
        return audit.ListAuditEntriesResponse(entries=answers.AUDIT, next_page_token=f"page {len(self.asked)}")


def test_no_more_pages_are_read_than_the_limit_needs() -> None:
    Paged.asked.clear()
    with answers.answered(Paged):
        rows = run_here("history", "--limit", "4").stdout.splitlines()[1:]
    assert (len(rows), Paged.asked) == (4, ["", "page 1"])
    for wrong in ("0", "-1", "many"):
        assert "must be a number from 1 on" in run_here("history", "--limit", wrong).stderr


class WithoutAudit(answers.Server):
    """A server whose audit log this caller may not read."""

    def ListAuditEntries(self, _: Any, timeout: float) -> Any:  # noqa: N802
        raise AssertionError


@pytest.mark.parametrize(
    ("options", "revisions"),
    [
        (("--since", "1h"), ["47", "46"]),
        (("--actor", "bob"), ["46"]),
        (("--action", "CREATED"), ["1"]),
        (("--since", "1h", "--limit", "1"), ["47"]),
    ],
)
def test_the_history_of_one_flag_is_filtered_without_the_audit_log(
    options: tuple[str, ...], revisions: list[str]
) -> None:
    with answers.answered(WithoutAudit):
        rows = run_here("history", "checkout-v2", *options).stdout.splitlines()[1:]
    assert [row.split("\t")[-2] for row in rows] == revisions


def test_what_other_programs_wrote_into_the_history_steers_no_terminal() -> None:
    odd = {"at": answers.NOW, "actor": "a\x1b", "reason": "b\x1b", "newValue": {"c\x1b": "d\x1b"}, "revision": 1}
    lines = entries.entry_lines({"flagKey": "e\x1b", "action": "f\x1b", "onBehalfOf": "g\x1b", **odd})
    assert "\x1b" not in "".join(lines)
    assert "".join(lines).count("\\u001b") == 7


def test_where_a_change_is() -> None:
    spread = pb.WriteSpread(reached=pb.WRITE_LEVEL_CACHED, applied_by=["a"], lagging=["b"])
    assert wait_for.where(spread) == "on 1 of 2 replicas"
    spread = pb.WriteSpread(reached=pb.WRITE_LEVEL_STORED, applied_by=["a"])
    assert wait_for.where(spread) == "stored; other replicas see it within their staleness bound"


def test_the_form_of_one_command_is_not_that_of_the_next() -> None:
    """Programs, and tests, may call `main` more than once."""
    assert run_here("no-such-command", "-o", "json").stderr.startswith("{")
    assert not run_here("no-such-command").stderr.startswith("{")
    assert terminal.form() is terminal.Form.TABLE
