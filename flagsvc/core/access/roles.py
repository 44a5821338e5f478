"""Roles, and which of them include which."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Role(StrEnum):
    """What a caller may do. `public` to `write`, and `admin`, are a ladder; `operate` stands beside it."""

    PUBLIC = "public"
    """Evaluate over OFREP the flags that everybody may see, and hear that one of them has changed."""
    EVALUATE = "evaluate"
    """Evaluate flags, and hear of changed keys."""
    READ = "read"
    """Definitions, with their rules: get, list, watch, sync, history, explanations."""
    TOGGLE = "toggle"
    """Switch flags on and off."""
    WRITE = "write"
    """Create, change and delete flags."""
    OPERATE = "operate"
    """Read, and the replicas: status, verify, resync. No flag can be changed with it."""
    ADMIN = "admin"
    """Everything, tokens too."""


_LADDER = (Role.PUBLIC, Role.EVALUATE, Role.READ, Role.TOGGLE, Role.WRITE)
INCLUDED: Mapping[Role, frozenset[Role]] = {
    **{role: frozenset(_LADDER[: at + 1]) for at, role in enumerate(_LADDER)},
    Role.OPERATE: frozenset({Role.PUBLIC, Role.EVALUATE, Role.READ, Role.OPERATE}),
    Role.ADMIN: frozenset(Role),
}
"""The roles that a role includes, itself too."""
EVALUATING = frozenset({Role.PUBLIC, Role.EVALUATE})
"""Roles that show no rule and change nothing."""
FOR_ALL_SETS = frozenset({Role.OPERATE, Role.ADMIN})
"""Roles that no flag set can limit."""
