"""Writing a snapshot: it is atomic, and an older one never replaces a newer one, whatever fails meanwhile."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from flagsvc.adapters.snapshot import file as snapshot
from flagsvc.ports import Saved
from tests.snapshot_files import FLAGS, NOW, at, outcomes, saved

NOBODY = 65_534


@pytest.mark.parametrize(
    ("there", "offered", "replaces"),
    [
        (saved(1), saved(2), True),
        (saved(2), saved(1), False),
        (saved(2, b=1), saved(2, b=2), True),
        (saved(1, b=5), saved(2, b=4), False),
        (saved(1, b=1), saved(2), False),
        (saved(1), saved(1, b=1), True),
        (saved(1), saved(1, name="same moment"), True),
        (saved(1, when=NOW - timedelta(seconds=1)), saved(1), True),
        (saved(1), saved(1, when=NOW - timedelta(seconds=1)), False),
        (saved(1), saved(2, when=NOW - timedelta(seconds=30)), True),
        (saved(2, when=NOW - timedelta(seconds=50)), saved(1), False),
    ],
)
def test_never_older_over_newer(tmp_path: Path, there: Saved, offered: Saved, replaces: bool) -> None:
    at(tmp_path / "s").write(there)
    assert at(tmp_path / "s").write(offered) is replaces
    assert at(tmp_path / "s").read() == (offered if replaces else there)


def test_the_snapshot_of_a_restored_store_is_written(tmp_path: Path) -> None:
    file = at(tmp_path / "s", max_age_s=1e6)
    file.write(saved(9, when=NOW - timedelta(minutes=11)))
    assert file.write(saved(3, when=NOW)), "revisions go back only if the store was restored"
    assert file.read() == saved(3, when=NOW)


def test_an_unusable_snapshot_is_never_newer(tmp_path: Path) -> None:
    at(tmp_path / "s", store="mongodb://other/flags").write(saved(9))
    assert at(tmp_path / "s").write(saved(1))
    at(tmp_path / "s").write(saved(9, when=NOW - timedelta(seconds=61)))
    at(tmp_path / "t").write(saved(9, when=NOW - timedelta(seconds=61)))
    assert at(tmp_path / "t").write(saved(1))


def test_of_many_writers_the_newest_wins(tmp_path: Path) -> None:
    """Each writer has its own lock, as separate processes have."""
    start = threading.Barrier(8)

    def write(first: int) -> None:
        start.wait()
        for revision in range(first, 200, 8):
            at(tmp_path / "s").write(saved(revision))
            held = at(tmp_path / "s").read()
            assert held is not None
            seen.append(held.contents.revisions["default"] >= revision)

    seen: list[bool] = []
    threads = [threading.Thread(target=write, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 200
    assert at(tmp_path / "s").read() == saved(199)


def test_a_lock_that_is_never_released_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "LOCK_TIMEOUT_S", 0.05)
    with snapshot._locked(tmp_path / "s.lock"), pytest.raises(TimeoutError, match=r"another process.*s\.lock"):
        at(tmp_path / "s").write(saved(1))
    assert at(tmp_path / "s").write(saved(1))


@contextlib.contextmanager
def unprivileged(directory: Path) -> Iterator[None]:
    """Act as an unprivileged user who owns the directory: a superuser may write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.chown(directory, NOBODY, -1)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_directory_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        at(tmp_path / "nowhere" / "deep" / "s").write(saved(1))
    monkeypatch.chdir(tmp_path)
    with unprivileged(tmp_path):
        assert at(Path("s")).write(saved(1))
        Path().chmod(0o500)
        with pytest.raises(PermissionError):
            at(Path("s")).write(saved(2))
        Path().chmod(0o700)
        assert at(Path("s")).read() == saved(1)
        assert {path.name for path in Path().iterdir()} == {"s", "s.lock"}
        Path("s").chmod(0)
        with capture_logs() as lines:
            assert at(Path("s")).read() is None
        assert lines[0]["cause"] == "Permission denied"


def test_a_full_disk_leaves_the_old_snapshot(tmp_path: Path) -> None:
    at(tmp_path / "s").write(saved(1))
    found = outcomes("full", tmp_path / "s", 0, 1, 1_000, 65_536, 2_000_000)
    assert found == [{"errno": errno.EFBIG, "revision": 1}] * 5
    assert at(tmp_path / "s").read() == saved(1)
    assert {path.name for path in tmp_path.iterdir()} == {"s", "s.lock"}


@pytest.mark.parametrize("times", [50, pytest.param(200, marks=pytest.mark.long)])
def test_a_kill_at_any_moment_leaves_the_old_or_the_new(tmp_path: Path, times: int) -> None:
    kills = outcomes("killed", tmp_path / "s", times)
    assert len(kills) == times
    begun = next(number for number, kill in enumerate(kills) if kill["found"])
    assert not any(kill["stored"] for kill in kills[:begun])
    for kill in kills[begun:]:
        assert kill["found"] - kill["stored"] in (0, 1), "the last acknowledged snapshot, or the one in progress"
        assert (kill["kinds"], kill["flags"]) == (1, FLAGS), "not a mixture"
    assert sum(kill["midway"] for kill in kills) > 5, "some were killed while writing"
    assert at(tmp_path / "s").write(saved(1_000_000)), "what a killed process left does not block others"
    assert {path.name for path in tmp_path.iterdir()} == {"s", "s.lock"}
