"""Hooks: functions that a client calls after every evaluation, for metrics and traces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from flagsvc_client.details import Context, EvaluationDetails
from flagsvc_client.failure_log import FailureLog


class Evaluated(NamedTuple):
    """One evaluation: its result, the context that the caller passed, and the flag set."""

    details: EvaluationDetails[Any]
    context: Context
    flag_set: str


Hook = Callable[[Evaluated], None]
"""It is called by whoever evaluates, so it must not wait."""


def run_hooks(hooks: Sequence[Hook], evaluated: Evaluated, failure_log: FailureLog) -> None:
    """Call each hook. What a hook raises is logged, and never reaches the caller."""
    for hook in hooks:
        try:
            hook(evaluated)
        except Exception as error:  # noqa: BLE001  a hook is not our code
            failure_log.warn("hook_failed", f"hook {type(error).__name__}", f"hook {hook!r}", str(error))
