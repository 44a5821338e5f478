"""What tests put in the place of a process' flags: for every client in it, whatever server that has."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from flagsvc_client._engine.model import Flag
from flagsvc_client.details import Context, EvaluationDetails, JsonValue
from flagsvc_client.substitutes import SUBSTITUTES, Substitute
from flagsvc_client.testing.flags import InMemoryFlags
from flagsvc_client.testing.sources import Source

F = TypeVar("F", bound=Callable[..., Any])
_MISSING = object()


class override:  # noqa: N801  it is used as a function
    """Give flags these values, for all clients of this process: `with override("checkout-v2", True):`.

    Also a decorator, for functions and coroutines. Other flags stay as they are. `key`: a key, or values by key. A
    value is plain JSON, None for a flag that is off, a definition as in flagd's files, or a Flag.
    """

    def __init__(self, key: str | Mapping[str, JsonValue | Flag], value: Any = _MISSING) -> None:
        if isinstance(key, str) == (value is _MISSING):
            raise TypeError("override takes a key and a value, or values by key")
        values = {key: value} if isinstance(key, str) else key
        self._flags = InMemoryFlags(values)
        self._single = _Single(self._flags)

    def __enter__(self) -> InMemoryFlags:
        SUBSTITUTES.append(self._single)
        return self._flags

    def __exit__(self, *_: object) -> None:
        _remove(self._single)

    def __call__(self, function: F) -> F:
        """Return the function with the override during each call. Raises TypeError for what is no function."""
        if not inspect.isroutine(function):
            raise TypeError(f"override decorates functions and coroutines, not {function!r}")
        if inspect.iscoroutinefunction(function):

            async def coroutine(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return await function(*args, **kwargs)

            return cast("F", functools.wraps(function)(coroutine))
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"override does not decorate the generator {function!r}; use `with` in it")

        def plain(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return cast("F", functools.wraps(function)(plain))


@contextmanager
def use_flags(source: Source | InMemoryFlags = (), *, strict: bool = False) -> Iterator[InMemoryFlags]:
    """Let all clients of this process evaluate these flags, and no others, inside the block.

    Reads of definitions, writes and watches still go to a client's server.
    """
    flags = source if isinstance(source, InMemoryFlags) else InMemoryFlags(source, strict=strict)
    SUBSTITUTES.append(flags)
    try:
        yield flags
    finally:
        _remove(flags)


class _Single:
    """Answers for its own flags only."""

    def __init__(self, flags: InMemoryFlags) -> None:
        self._flags = flags

    def details(self, key: str, context: Context, default: Any, min_revision: int = 0) -> EvaluationDetails[Any] | None:
        if self._flags.flag(key) is None:
            return None
        return self._flags.details(key, context, default, min_revision)

    def keys(self) -> Iterable[str] | None:
        return None


def _remove(substitute: Substitute) -> None:
    """Remove the newest one that is this: an override may be entered several times."""
    for index in reversed(range(len(SUBSTITUTES))):
        if SUBSTITUTES[index] is substitute:
            del SUBSTITUTES[index]
            return
