"""Who else can have written a snapshot. What others can write is not believed: it decides answers after a start."""

from __future__ import annotations

import os
import stat


def untrusted_file(found: os.stat_result) -> str:
    """Return why a snapshot is not believed; empty if only this user, or root, can have written it."""
    if found.st_uid not in (os.geteuid(), 0):
        return f"it belongs to user {found.st_uid}, and flagsvc runs as user {os.geteuid()}"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"its mode {stat.S_IMODE(found.st_mode):04o} lets others write it; it must be 0600"
    return ""


def untrusted_directory(found: os.stat_result) -> str:
    """Return why a snapshot in this directory is not believed; empty if nobody else can replace files in it."""
    mode = stat.S_IMODE(found.st_mode)
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        return f"its directory's mode {mode:04o} lets everybody replace it; it must be 0700, or have the sticky bit"
    return ""
