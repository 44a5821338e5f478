"""Limits the calls of OFREP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request

from flagsvc.api.common.callers import CALLER
from flagsvc.api.common.listener import Listener
from flagsvc.api.common.peers import peer_name
from flagsvc.api.ofrep.requests import metadata_of
from flagsvc.limits.callers import share_of
from flagsvc.limits.rate_limits import RateLimits
from flagsvc.limits.weights import STREAM_UNITS, CountFlags, units_of

Handler = Callable[..., Any]


class OfrepLimit:
    """Wraps OFREP's handlers, which run once the caller is known and its body is read."""

    def __init__(self, limits: RateLimits, listener: Listener, count: CountFlags) -> None:
        self._limits, self._table = limits, limits.tables["evaluate"]
        self._selectors, self._count = listener.selectors, count

    def __call__(self, handler: Handler, kind: str) -> Handler:
        """Return a handler that raises RateLimited for callers over their rate."""
        is_whole, fixed = kind == "EvaluateAll", STREAM_UNITS if kind == "Events" else 1

        def limited(request: Request, *rest: Any) -> Any:
            share = share_of(self._table, CALLER.get(), request.scope["client"], peer_name)
            self._limits.charge(self._table, share, self._units_of_set(request) if is_whole else fixed)
            return handler(request, *rest)

        return limited

    def _units_of_set(self, request: Request) -> int:
        return units_of(self._count(self._selectors.of(metadata_of(request)).flag_set))
