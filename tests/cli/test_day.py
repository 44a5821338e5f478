"""A full day of a flag, as `flagsvc history` shows it, and what it answered, answers and will answer."""

from __future__ import annotations

from pathlib import Path

from tests.cli.day import SHEETS, play
from tests.cli.sheets import FOLDER


async def test_a_day_of_plans_rollouts_pauses_and_rollbacks_is_one_story(tmp_path: Path) -> None:
    """`python -m tests.cli.day` writes the sheets again."""
    shown = await play(tmp_path)
    assert tuple(shown) == SHEETS
    for name in SHEETS:
        assert shown[name] == (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
