"""Checks of stores and snapshots that are files of this machine."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path
from urllib.parse import quote

from flagsvc.adapters.causes import Cause
from flagsvc.adapters.checks.steps import CheckFailed, Finding, Steps, closing_quietly
from flagsvc.adapters.files.checked import checked
from flagsvc.adapters.sqlite import FILE_CURE


def check_sqlite(url: str) -> list[Finding]:
    """Check the folder and the file; a file that is not there yet is not created."""
    path = Path(url.removeprefix("sqlite:///"))
    steps = Steps("store", _cause)
    steps.run("folder", lambda: _folder(path.parent), needed=True)
    steps.run("file", lambda: _database(path))
    return steps.findings


def check_flag_files(url: str) -> list[Finding]:
    """Check that each file can be read and has valid content."""
    steps = Steps("store", _cause)
    for source in dict.fromkeys(part.removeprefix("file://").removeprefix("file:") for part in url.split(",")):
        steps.run(f"file {source}", lambda source=source: _flag_file(source))  # type: ignore[misc]
    return steps.findings


def check_snapshot(file: str) -> list[Finding]:
    """Check that a snapshot can be saved."""
    steps = Steps("snapshot", _cause)
    steps.run("folder", lambda: _snapshot_folder(Path(file).parent))
    return steps.findings


def _cause(error: Exception) -> Cause:
    if isinstance(error, OSError):
        return Cause(error.strerror or type(error).__name__, FILE_CURE)
    return Cause(f"{type(error).__name__}: {error}"[:200], FILE_CURE)


def _folder(folder: Path) -> str:
    with tempfile.TemporaryFile(dir=folder):
        return "it can be written"


def _snapshot_folder(folder: Path) -> str:
    if folder.exists():
        return _folder(folder)
    _folder(folder.parent)
    return "it is not there yet; the first save makes it"


def _database(path: Path) -> str:
    if not path.exists():
        return "it is not there yet; the first start creates it"
    connection = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=rw", uri=True, timeout=2.0)
    with closing_quietly(connection.close):
        connection.execute("BEGIN IMMEDIATE")
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        flags = connection.execute("SELECT count(*) FROM flags").fetchone()[0] if "flags" in tables else 0
        connection.execute("CREATE TABLE flagsvc_doctor (id INTEGER)")
        connection.execute("ROLLBACK")
    return f"{flags} flags; it can be written"


def _flag_file(source: str) -> str:
    content = checked(source, Path(source).read_bytes(), is_write=False)
    if content.violations:
        first = content.violations[0]
        raise CheckFailed(
            f"{len(content.violations)} errors; the first in line {first.line}: {first.text}"[:300],
            f"correct the file; all errors: flagsvc validate {source}",
        )
    odd = f"; {len(content.warnings)} warnings: flagsvc validate {source}" if content.warnings else ""
    return f"{len(content.flags)} flags{odd}"
