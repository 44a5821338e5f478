"""A port for callers, as its handlers see it."""

from __future__ import annotations

from dataclasses import dataclass

from flagsvc.api.common.selectors import Selectors
from flagsvc.core.access.identity import Identity


@dataclass(frozen=True, slots=True)
class Listener:
    """One of `setting_values.LISTENERS`. Handlers get it when they are registered, so that a call costs nothing for it.

    `name`: its name in settings and logs; `selectors`: reads which flag set a call selects. `anonymous`: who calls
    without a credential, where callers are authenticated; None if nobody may.
    """

    name: str
    selectors: Selectors
    anonymous: Identity | None = None
