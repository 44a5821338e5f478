"""What class a method belongs to, and how many units a call of it takes.

A unit is one evaluation, one read, one write or one administrative call. A key in a batch costs about a tenth of a
call of its own, so KEYS_PER_UNIT of them take one unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flagsvc.api.common.callers import Metadata
from flagsvc.api.common.permissions import METHODS, Rule
from flagsvc.api.common.selectors import Selectors
from flagsvc.core.access.roles import Role

KINDS = ("evaluate", "read", "write", "admin")
OF_ROLE: Mapping[Role, str] = {
    Role.PUBLIC: "evaluate",
    Role.EVALUATE: "evaluate",
    Role.READ: "read",
    Role.TOGGLE: "write",
    Role.WRITE: "write",
    Role.OPERATE: "admin",
    Role.ADMIN: "admin",
}
KEYS_PER_UNIT = 10
STREAM_UNITS = 10
"""To open a stream: it begins with everything that its client does not have."""
EXPLAIN_UNITS = 10
"""To explain an evaluation, or to make one as of another moment, which reads the store."""
_OWN = "/flagsvc.v1.FlagService/"
_EXPLAINS = _OWN + "EvaluateFlag"
_BATCHES = _OWN + "BatchEvaluateFlags"
_WHOLE_SETS = frozenset(
    {
        "/flagd.evaluation.v1.Service/ResolveAll",
        "/schema.v1.Service/ResolveAll",
        "/flagd.sync.v1.FlagSyncService/FetchAllFlags",
    }
)

CountFlags = Callable[[str], int]
"""Returns how many flags a set has."""
Weigh = Callable[[Any, Callable[[], Metadata]], int]
"""Returns the units of a call, from its request and its metadata, which gRPC builds at each call of the function."""


def kind_of(method: str) -> str | None:
    """Return the class of a method; None for one that is never limited, as health checks are."""
    rule = METHODS.get(method, Rule(Role.ADMIN))
    return None if rule.role is None else OF_ROLE[rule.role]


def weigher_of(method: str, selectors: Selectors, count: CountFlags) -> Weigh | None:
    """Return what weighs a unary method's calls; None where each takes one unit."""
    if method == _EXPLAINS:
        return lambda request, _metadata: EXPLAIN_UNITS if request.explain or request.HasField("as_of") else 1
    set_of = METHODS[method].set_of if method in METHODS else None
    if set_of is None or method not in (_BATCHES, *_WHOLE_SETS):
        return None

    def units_of_keys(request: Any, metadata: Callable[[], Metadata]) -> int:
        keys = len(request.flag_keys) if method == _BATCHES else 0
        units = units_of(keys or count(set_of(request, metadata(), selectors)))
        return units * EXPLAIN_UNITS if method == _BATCHES and request.HasField("as_of") else units

    return units_of_keys


def units_of(keys: int) -> int:
    """Return the units of a call that evaluates, or reads, so many flags."""
    return 1 + keys // KEYS_PER_UNIT
