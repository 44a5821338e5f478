"""Local evaluation: a copy of the flag set in this process. Its packages are the extra `local`, imported on demand."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from flagsvc_client.client_events import ClientEvent, Events

if TYPE_CHECKING:
    from flagsvc_client.local.updater import LocalUpdater

STALENESS_BOUND_S = 30.0


def open_local(
    flag_set: str,
    staleness_bound_s: float,
    snapshot_file: str | os.PathLike[str] | None,
    on_event: Callable[[ClientEvent], None] | None,
) -> LocalUpdater:
    """Create the local copy. Raises ImportError with the command to run if the extra is not installed."""
    try:
        from flagsvc_client.local.flag_set import LocalFlagSet  # noqa: PLC0415  most clients do not need it
        from flagsvc_client.local.updater import LocalUpdater  # noqa: PLC0415
    except ImportError as error:
        message = f"local=True needs {error.name}: pip install 'flagsvc-client[local]'"
        raise ImportError(message, name=error.name) from None
    file = Path(snapshot_file) if snapshot_file is not None else None
    return LocalUpdater(flag_set, LocalFlagSet(staleness_bound_s), Events(on_event), file)
