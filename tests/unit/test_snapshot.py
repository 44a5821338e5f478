"""Reading a snapshot file: what is read is what was saved, or nothing with the cause in the log."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from flagsvc.adapters.snapshot import format as snapshot_format
from flagsvc.adapters.snapshot.file import SnapshotFile
from flagsvc.core.model import Flag, Status
from flagsvc.ports import Saved, StoreContents
from tests.snapshot_files import NOW, STORE, at, saved

WHOLE = Flag(
    key="whole\n\u2028ü",
    flag_set="tenant-a",
    name="line\nbreak, \x00 and \u2029",
    description="",
    category="core",
    status=Status.BETA,
    config={"limit": 1, "share": 0.5, "names": ["ä", None, True]},
    icon="i",
    badge="b",
    sort_order=-7,
    created_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    updated_at=datetime(2026, 2, 2, 3, 4, 5, tzinfo=UTC),
    enabled_at=datetime(2026, 3, 2, 3, 4, 5, tzinfo=UTC),
    disabled_at=datetime(2026, 4, 2, 3, 4, 5, tzinfo=UTC),
    variants={"one": 1, "more": {"a": [1, 2]}},
    default_variant="one",
    targeting='{"if":[{"$ref":"inner"},"one","more"]}',
    evaluators={"inner": '{"==":[1,1]}'},
    metadata={"team": "x", "weight": 2},
    revision=2**62,
    owner="me",
    expires_at=datetime(2027, 1, 1, tzinfo=UTC),
)


def rejection(file: SnapshotFile) -> str:
    """Return the cause that the log has for not using the file."""
    with capture_logs() as lines:
        assert file.read() is None
    assert [(line["log_level"], line["event"]) for line in lines] == [("warning", "snapshot_unusable")]
    return str(lines[0]["cause"])


def test_what_is_read_is_what_was_saved(tmp_path: Path) -> None:
    broken = Flag(key="broken", revision=4, problem="The stored definition is malformed: status")
    old = Flag(key="old", status=Status.ENABLED)
    contents = StoreContents([WHOLE, broken, old], {"tenant-a": 2**62, "default": 4, "empty": 3})
    assert at(tmp_path / "s").write(Saved(contents, NOW)) is True
    assert at(tmp_path / "s").read() == Saved(contents, NOW)
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"s", "s.lock"}


def test_a_store_without_flags_can_be_saved(tmp_path: Path) -> None:
    assert at(tmp_path / "s").write(Saved(StoreContents([], {}), NOW))
    assert at(tmp_path / "s").read() == Saved(StoreContents([], {}), NOW)


@pytest.mark.parametrize("path", ["s", "nowhere/s"])
def test_a_missing_file_is_not_a_warning(tmp_path: Path, path: str) -> None:
    with capture_logs() as lines:
        assert at(tmp_path / path).read() is None
    assert [(line["log_level"], line["event"]) for line in lines] == [("info", "snapshot_not_found")]


def test_no_changed_byte_and_no_missing_end_goes_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    at(path).write(saved(12, name="ü"))
    good, read = path.read_bytes(), at(path).read()
    assert read is not None
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        assert at(path).read() in (None, read), good[place:]
        path.write_bytes(good[:place])
        assert at(path).read() is None, place
    for more in (b"x", b"\n", b'{"key":"b","revision":3}\n', b"\x00" * 100):
        path.write_bytes(good + more)
        assert "bytes" in rejection(at(path))


def forge(path: Path, lines: bytes, **fields: object) -> None:
    """Write a file with a valid checksum over any header and lines."""
    count = lines.count(b"\n")
    header = {"format": 1, "store": STORE, "savedAt": NOW.isoformat(), "revisions": {}, "flags": count} | fields
    header["bytes"] = len(lines)
    checksum = hashlib.sha256(json.dumps(header).encode() + lines).hexdigest()
    path.write_bytes(json.dumps(header | {"sha256": checksum}).encode() + b"\n" + lines)


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"format": 3}, "it has format 3; this version reads formats 1 and 2"),
        ({"format": 2}, "its header is malformed"),
        ({"format": None}, "it has format None"),
        ({"store": "mongodb://other/flags"}, "it belongs to another store, mongodb://other/flags"),
        ({"savedAt": (NOW - timedelta(seconds=61)).isoformat()}, "it is 61 s old; the maximum is 60 s"),
        ({"savedAt": "yesterday"}, "its header is malformed"),
        ({"savedAt": 7}, "its header is malformed"),
        ({"revisions": [1]}, "its header is malformed"),
        ({"revisions": {"default": "x"}}, "its header is malformed"),
        ({"flags": 2}, "it should have 2 flags, and has 1"),
    ],
)
def test_a_header_that_does_not_fit(tmp_path: Path, fields: dict[str, object], cause: str) -> None:
    flag = b'{"key":"a","revision":3}\n'
    forge(tmp_path / "s", flag)
    assert at(tmp_path / "s").read() == Saved(StoreContents([Flag(key="a", revision=3)], {}), NOW)
    forge(tmp_path / "s", flag, **fields)
    assert cause in rejection(at(tmp_path / "s"))


@pytest.mark.parametrize("line", [b"{", b"[1]", b"7", b"null", b"", b"[" * 5_000, b"\xff", b'{"key":'])
def test_a_malformed_flag(tmp_path: Path, line: bytes) -> None:
    forge(tmp_path / "s", b'{"key":"a"}\n' + line + b"\n")
    assert "flag 2 is malformed" in rejection(at(tmp_path / "s"))


@pytest.mark.parametrize("text", [b"", b"\n", b"{}", b"[]", b"7", b"null", b'"x"', b"[" * 5_000, b"\xff\xfe", b"{\n}"])
def test_a_file_that_is_not_a_snapshot(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "s").write_bytes(text)
    assert rejection(at(tmp_path / "s"))
    assert at(tmp_path / "s").write(saved(1)), "an unusable file is replaced"
    assert at(tmp_path / "s").read() == saved(1)


def test_a_time_in_the_future_counts_as_now(tmp_path: Path) -> None:
    ahead = saved(1, when=NOW + timedelta(days=1))
    at(tmp_path / "s").write(ahead)
    assert at(tmp_path / "s").read() == ahead
    assert at(tmp_path / "s").write(saved(1)), "a clock that was wrong once does not block later snapshots"


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda path: path.symlink_to(path.with_name("real")), "a link"),
        (lambda path: path.symlink_to("/nowhere"), "a link"),
        (lambda path: path.mkdir(), "a directory"),
        (os.mkfifo, "a special file"),
    ],
)
def test_a_file_that_is_not_regular_is_not_changed(tmp_path: Path, make: Callable[[Path], None], kind: str) -> None:
    at(tmp_path / "real").write(saved(1))
    make(tmp_path / "s")
    with pytest.raises(OSError, match=f"it is {kind}"):
        at(tmp_path / "s").write(saved(2))
    assert f"it is {kind}" in rejection(at(tmp_path / "s"))
    assert at(tmp_path / "real").read() == saved(1)
    assert {path.name for path in tmp_path.iterdir()} == {"real", "real.lock", "s"}


def test_a_device_is_refused() -> None:
    with pytest.raises(OSError, match="it is a device"):
        at(Path("/dev/null")).write(saved(1))
    assert "it is a device" in rejection(at(Path("/dev/zero")))


def test_rendering_leaves_room_for_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(snapshot_format.time, "sleep", pauses.append)
    flags = [replace(WHOLE, revision=number) for number in range(3_000)]
    snapshot_format.render(STORE, Saved(StoreContents(flags, {}), NOW))
    assert len(pauses) > 5, "three thousand flags take far longer than a slice"
