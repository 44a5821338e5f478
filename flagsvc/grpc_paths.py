"""Calls whose path is no UTF-8 are refused as those of any unknown method.

grpcio's server decodes the path of a method that it does not know in its main loop, strictly, and stops for good where
that fails: one such call would close every connection. What bytes.decode() does with wrong bytes is up to the process's
error handler for `strict`, and this is the only place where grpcio can be reached.
"""

from __future__ import annotations

import asyncio
import codecs

MAIN_LOOP = "_server_main_loop"
"""The coroutine of grpcio's server that decodes paths."""
STRICT = codecs.lookup_error("strict")
"""Python's own handler, which raises the error."""


def tolerate_undecodable() -> None:
    """Let grpcio's main loop, and nothing else, read wrong bytes as U+FFFD. No method has a path with one."""
    codecs.register_error("strict", _strict)


def _strict(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeDecodeError) and _in_main_loop():
        return "\ufffd", error.end
    return STRICT(error)


def _in_main_loop() -> bool:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # this thread runs no event loop
        return False
    return task is not None and getattr(task.get_coro(), "__name__", "") == MAIN_LOOP
