"""A snapshot that another user can have written is not believed: it decides answers after a start."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.snapshot_files import at, saved


def test_a_snapshot_is_only_its_owners(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        at(tmp_path / "own" / "s").write(saved(1))
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "own").iterdir()}
    assert modes == {"s": 0o600, "s.lock": 0o600}
    assert stat.S_IMODE((tmp_path / "own").stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666], ids=oct)
def test_a_snapshot_that_others_can_write_is_replaced_and_never_read(tmp_path: Path, mode: int) -> None:
    file = at(tmp_path / "s")
    file.write(saved(9))
    (tmp_path / "s").chmod(mode)
    with capture_logs() as lines:
        assert file.read() is None
    [line] = lines
    assert (line["event"], line["log_level"]) == ("snapshot_unusable", "warning")
    assert line["cause"] == f"its mode {mode:04o} lets others write it; it must be 0600"
    [problem] = file.problems()
    assert (problem.name, line["cause"] in problem.detail) == ("snapshot_untrusted", True)
    assert file.write(saved(1)), "its revision 9 is no reason to keep it"
    assert file.problems() == ()
    assert file.read() == saved(1)


def test_in_a_directory_that_everybody_can_write_nothing_is_read_or_written(tmp_path: Path) -> None:
    file = at(tmp_path / "s")
    file.write(saved(1))
    tmp_path.chmod(0o777)
    with capture_logs() as lines:
        assert file.read() is None
    assert "its directory's mode 0777 lets everybody replace it" in lines[0]["cause"]
    [problem] = file.problems()
    assert "a directory of its own" in problem.cure
    with pytest.raises(PermissionError, match="0777"):
        file.write(saved(2))
    tmp_path.chmod(0o1777)
    assert file.read() == saved(1)
    assert file.problems() == ()


def test_a_snapshot_of_another_user_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = at(tmp_path / "s")
    file.write(saved(1))
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: 65_532)
    if owner == 0:
        os.chown(tmp_path / "s", 1, -1)  # what root owns is believed
    with capture_logs() as lines:
        assert file.read() is None
    assert lines[0]["cause"] == f"it belongs to user {max(owner, 1)}, and flagsvc runs as user 65532"
