"""A context for all evaluations of a request, a task or a test, so that it is not handed through every function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from flagsvc_client.details import NOTHING, TARGETING_KEY, Context, EvaluationContext, JsonValue

_scoped: ContextVar[Mapping[str, JsonValue]] = ContextVar("flagsvc_context", default=NOTHING)
scoped_fields = _scoped.get


@contextmanager
def context_scope(context: Context) -> Iterator[None]:
    """Add fields to the context of every evaluation inside the block, in this thread or task and those it starts.

    An evaluation's own context takes precedence, field by field; so does an inner block over an outer one. A field
    that is not valid is reported by the evaluations: INVALID_CONTEXT. Raises TypeError for what is no context.
    """
    token = _scoped.set({**_scoped.get(), **_fields(context)})
    try:
        yield
    finally:
        _scoped.reset(token)


def _fields(context: Context) -> Mapping[str, JsonValue]:
    if context is None:
        return NOTHING
    if isinstance(context, EvaluationContext):
        key = {TARGETING_KEY: context.targeting_key} if context.targeting_key else NOTHING
        return {**context.attributes, **key}
    if isinstance(context, Mapping):
        return context
    raise TypeError(f"context is a {type(context).__name__}; it must be a mapping or an EvaluationContext")
