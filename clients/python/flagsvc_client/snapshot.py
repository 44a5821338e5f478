"""The last known flag set in a file, for a start while the server is away. A broken file is told and ignored."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from flagsvc_client._engine.documents import dumps, loads
from flagsvc_client._engine.model import Flag

log = logging.getLogger("flagsvc_client")
_FORMAT = "flagsvc-client-snapshot 1"


class Saved(NamedTuple):
    """What a file has. `age_s`: seconds since it was saved."""

    flags: list[Flag]
    watermark: int
    age_s: float


def read(path: Path, flag_set: str) -> Saved | None:
    """Read a snapshot; None where there is none that can be used."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        log.warning("the snapshot %s cannot be read: %s", path, error)
        return None
    head, _, body = text.partition("\n")
    if head != f"{_FORMAT} {hashlib.sha256(body.encode()).hexdigest()}":
        log.warning("the snapshot %s is broken, or of another release, and is ignored", path)
        return None
    try:
        told = json.loads(body)
        saved = Saved([loads(line) for line in told["flags"]], int(told["watermark"]), time.time() - told["savedAt"])
    except (ValueError, TypeError, KeyError, AttributeError):
        log.warning("the snapshot %s is none of ours, and is ignored", path)
        return None
    if told["flagSet"] != flag_set:
        log.warning("the snapshot %s is of flag set %r, not %r, and is ignored", path, told["flagSet"], flag_set)
        return None
    return saved


def write(path: Path, flag_set: str, flags: Iterable[Flag], watermark: int, age_s: float) -> None:
    """Replace the file in one step; what cannot be written is told. `age_s`: since the server was heard."""
    told = {"flagSet": flag_set, "watermark": watermark, "savedAt": time.time() - age_s}
    body = json.dumps(told | {"flags": [dumps(flag) for flag in flags]}, ensure_ascii=False)
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
        log.warning("the snapshot %s cannot be written: %s", path, error)
        if scratch:
            Path(scratch).unlink(missing_ok=True)
