"""Texts that people read: new ones have no invisible characters, and stored ones are printed with theirs escaped."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from flagsvc.cli import render
from flagsvc.cli.main import main
from flagsvc.cli.tables import Column, print_table
from flagsvc.cli.terminal import say
from flagsvc.core import changes
from flagsvc.core.changes import Author
from flagsvc.core.errors import FlagNotFound, InvalidRequest
from flagsvc.core.model import Flag
from flagsvc.core.shown_text import hidden_at, visible
from flagsvc.telemetry import configure_logging
from tests.command_line import Terminal

AUTHOR = Author(datetime(2026, 11, 30, tzinfo=UTC))
HIDDEN = {
    "ESC": "\x1b",
    "newline": "\n",
    "C1": "\x85",
    "DEL": "\x7f",
    "right to left": "\u202e",
    "isolate": "\u2066",
    "zero width": "\u200b",
    "line separator": "\u2028",
    "byte order mark": "\ufeff",
    "soft hyphen": "\u00ad",
    "filler": "\u3164",
    "tag": "\U000e0041",
    "joiner of letters": "\u200d",
}
hidden = pytest.mark.parametrize("char", HIDDEN.values(), ids=HIDDEN)

SHOWN = [
    "off",
    "Zoë",
    "日本\u3000語",
    "👩‍👩‍👧‍👦",
    "❤️‍🔥",
    "🧑🏽‍🤝‍🧑🏻",
    "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "1️⃣",
    "می‌خواهم",
    "क्‍ष",
    "a\u00a0b",
    "عدد؀",
    "",
]


@pytest.mark.parametrize("text", SHOWN)
def test_emoji_and_scripts_that_need_joiners_are_fine(text: str) -> None:
    assert hidden_at(text) is None
    assert visible(text) == text


@hidden
def test_a_new_text_with_an_invisible_character_is_refused_with_its_place(char: str) -> None:
    bad = f"of{char}f"
    place = f"U+{ord(char):04X} (character 3)"
    for field in ("key", "flag_set", "name", "category", "icon", "badge", "owner"):
        flag = replace(Flag(key="a", name="x"), **{field: bad})
        with pytest.raises(InvalidRequest) as caught:
            changes.create(flag, AUTHOR)
        [violation] = caught.value.violations
        assert violation.field == f"flag.{field}"
        assert place in violation.wanted
    for flag in (
        Flag(key="a", name="a", variants={bad: True}),
        Flag(key="a", name="a", metadata={bad: 1}),
        Flag(key="a", name="a", evaluators={bad: "{}"}),
    ):
        with pytest.raises(InvalidRequest, match=r"U\+"):
            changes.create(flag, AUTHOR)


def test_a_description_may_have_lines_and_nothing_else_that_is_invisible() -> None:
    changes.create(Flag(key="a", description="one\r\n\ttwo\n"), AUTHOR)
    with pytest.raises(InvalidRequest, match=r"flag.description .* U\+202E \(character 5\)"):
        changes.create(Flag(key="a", description="one\n\u202etwo"), AUTHOR)


@hidden
def test_a_stored_text_stays_and_only_a_new_one_is_checked(char: str) -> None:
    odd = f"a{char}b"
    stored = Flag(key=odd, name=odd, owner=odd, variants={odd: True}, default_variant=odd, revision=3)
    toggled = changes.toggle(odd, True, None, AUTHOR)(stored)
    assert toggled is not None
    if char not in "\x1b\n\x85\x7f":  # these were never accepted in a key or the name of a variant
        changed = changes.update(replace(stored, category="core"), ["category", "owner"], None, AUTHOR)(stored)
        assert changed is not None
        assert changed.after is not None
        assert (changed.after.category, changed.after.owner) == ("core", odd)
    assert changes.delete(odd, None, AUTHOR)(stored) is not None
    with pytest.raises(InvalidRequest):
        changes.update(replace(stored, category=f"{odd}!"), ["category"], None, AUTHOR)(stored)


@hidden
def test_what_is_printed_steers_no_terminal(char: str, capsys: pytest.CaptureFixture[str]) -> None:
    odd = f"of{char}f"
    print_table([Column("key")], [(odd,)], "")
    render.print_fields({"name": odd, "config": {odd: [odd]}, "owner": odd})
    render.print_json({odd: odd})
    say(f"error: {odd.replace(chr(10), '')}")
    printed = capsys.readouterr().out
    assert char not in printed.replace("\n", "") or char == "\n"
    assert printed.count(json.dumps(char)[1:-1]) >= 6
    assert str(FlagNotFound(odd)) == f'Feature flag with key "{visible(odd)}" not found'


def test_a_description_is_printed_in_its_lines_on_a_terminal() -> None:
    terminal = Terminal(columns=80)
    with terminal.is_standard_output():
        render.print_fields({"description": "first\nsecond\x1b"})
    assert terminal.text == "description  first\n             second\\u001b\n"


def test_in_a_pipe_a_field_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    render.print_fields({"description": "first\nsecond\x1b"})
    assert capsys.readouterr().out == "description\tfirst\\nsecond\\u001b\n"


def test_json_keeps_its_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"".join(HIDDEN.values()): ["".join(HIDDEN.values()), "👩‍👩‍👧‍👦"]}
    render.print_json(value)
    assert json.loads(capsys.readouterr().out) == value


@settings(deadline=None)
@given(st.text())
def test_nothing_hidden_remains(text: str) -> None:
    assert hidden_at(visible(text)) is None


def test_the_log_on_a_console_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    before = structlog.get_config()
    try:
        configure_logging("info", "console")
        structlog.get_logger().info("changed", actor="an\x1b[2Jn", key="of\nf\u202e")
    finally:
        structlog.configure(**before)
    line = capsys.readouterr().err
    assert "an\\u001b[2Jn" in line
    assert "of\\nf\\u202e" in line
    assert line.count("\n") == 1


def test_an_import_refuses_invisible_characters_and_validate_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = f"sqlite:///{tmp_path}/flags.db"
    lines, flagd = tmp_path / "flags.ndjson", tmp_path / "flags.json"
    lines.write_text(json.dumps({"key": "a", "name": "of\u200bf"}))
    definition = {"state": "ENABLED", "variants": {"on": True}, "defaultVariant": "on"}
    flagd.write_text(json.dumps({"flags": {"off\u202effo": definition}}))
    assert main(["import", str(lines), "--store", store]) == 1
    assert "line 1: name: 'of\\u200bf'; it must be without the invisible character U+200B" in capsys.readouterr().err
    assert main(["import", str(flagd), "--store", store]) == 1
    assert "flag.key is 'off\\u202effo'; it must be without the invisible character U+202E (character 4)" in (
        capsys.readouterr().err
    )
    assert main(["validate", str(flagd)]) == 0
    assert "note: $: an import refuses this" in capsys.readouterr().out


def test_an_export_to_a_terminal_steers_it_not_and_means_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, file = f"sqlite:///{tmp_path}/flags.db", tmp_path / "flags.ndjson"
    (tmp_path / "good.ndjson").write_text('{"key": "a", "name": "A", "config": {"x": "\\u202e\\u007f"}}')
    assert main(["import", str(tmp_path / "good.ndjson"), "--store", store]) == 0
    assert main(["export", "--store", store, "--output", str(file)]) == 0
    capsys.readouterr()
    for file_format in ("mongoexport", "flagd"):
        assert main(["export", "--store", store, "--format", file_format]) == 0
        printed = capsys.readouterr().out
        assert hidden_at(printed, "\n") is None
    main(["export", "--store", store])
    assert json.loads(capsys.readouterr().out) == json.loads(file.read_text())
    assert "\u202e" in file.read_text()
