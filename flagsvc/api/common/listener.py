"""A port for callers, as its handlers see it."""

from __future__ import annotations

from dataclasses import dataclass

from flagsvc.api.common.selectors import Selectors


@dataclass(frozen=True, slots=True)
class Listener:
    """One of `setting_values.LISTENERS`. Handlers get it when they are registered, so that a call costs nothing for it.

    `name`: its name in settings and logs; `selectors`: reads which flag set a call selects.
    """

    name: str
    selectors: Selectors
