"""The seam between a client and local evaluation, whose packages are an extra."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from flagsvc_client.events import ClientEvent, Events

if TYPE_CHECKING:
    from flagsvc_client.following import Following

STALENESS_BOUND_S = 30.0


def following_of(
    flag_set: str,
    staleness_bound_s: float,
    snapshot_file: str | os.PathLike[str] | None,
    on_event: Callable[[ClientEvent], None] | None,
) -> Following:
    """Make what holds the set. Raises ImportError, with the command that helps, where the extra is missing."""
    try:
        from flagsvc_client.following import Following  # noqa: PLC0415  most clients need none of it
        from flagsvc_client.local import LocalFlags  # noqa: PLC0415
    except ImportError as error:
        told = f"local=True needs {error.name}: pip install 'flagsvc-client[local]'"
        raise ImportError(told, name=error.name) from None
    file = Path(snapshot_file) if snapshot_file is not None else None
    return Following(flag_set, LocalFlags(staleness_bound_s), Events(on_event), file)
