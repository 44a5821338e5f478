"""The last known flag set in a file, for a start while the server is down. A broken file is logged and ignored."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from flagsvc_client._engine.documents import dumps, loads
from flagsvc_client._engine.model import Flag
from flagsvc_client.failure_log import log
from flagsvc_client.local.settings import KNOWN, EvaluationSettings
from flagsvc_client.wire_contexts import Limits

_FORMAT = "flagsvc-client-snapshot 2"


class SavedFlagSet(NamedTuple):
    """The content of a file. `age_s`: seconds since the flags were last known to be the server's."""

    flags: list[Flag]
    watermark: int
    age_s: float
    settings: EvaluationSettings


def is_snapshot(text: str) -> bool:
    """Whether a file's text is a snapshot, of whatever release."""
    return text.startswith(_FORMAT.rpartition(" ")[0])


def read(path: Path, flag_set: str) -> SavedFlagSet | None:
    """Read a snapshot; None if the file does not exist or cannot be used."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        log.warning("cannot read snapshot %s: %s", path, error, extra={"event": "snapshot_read_failed"})
        return None
    head, _, body = text.partition("\n")
    if head != f"{_FORMAT} {hashlib.sha256(body.encode()).hexdigest()}":
        _log_ignored(path, "it is damaged, or was written by another release")
        return None
    try:
        fields = json.loads(body)
        flags = [loads(line) for line in fields["flags"]]
        unknown = [name for name in fields["requires"] if name not in KNOWN]
        settings = EvaluationSettings(fields["contextValues"], Limits(*fields["limits"]))
        saved = SavedFlagSet(flags, int(fields["watermark"]), time.time() - fields["savedAt"], settings)
    except (ValueError, TypeError, KeyError, AttributeError):
        _log_ignored(path, "it is not a snapshot of a flag set")
        return None
    if unknown:
        _log_ignored(path, f"it requires {unknown} of whoever evaluates it")
        return None
    if fields["flagSet"] != flag_set:
        _log_ignored(path, f"it is of flag set {fields['flagSet']!r}, not {flag_set!r}")
        return None
    return saved


def _log_ignored(path: Path, why: str) -> None:
    log.warning("snapshot %s is ignored: %s", path, why, extra={"event": "snapshot_ignored"})


def write(path: Path, flag_set: str, saved: SavedFlagSet) -> None:
    """Replace the file atomically; a failure is logged."""
    settings = saved.settings
    fields = {
        "flagSet": flag_set,
        "watermark": saved.watermark,
        "savedAt": time.time() - saved.age_s,
        "requires": sorted(KNOWN),
        "contextValues": dict(settings.context_values),
        "limits": settings.limits,
        "flags": [dumps(flag) for flag in saved.flags],
    }
    body = json.dumps(fields, ensure_ascii=False)
    text = f"{_FORMAT} {hashlib.sha256(body.encode()).hexdigest()}\n{body}"
    scratch = ""
    try:
        handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(scratch).replace(path)
    except OSError as error:
        log.warning("cannot write snapshot %s: %s", path, error, extra={"event": "snapshot_write_failed"})
        if scratch:
            Path(scratch).unlink(missing_ok=True)
