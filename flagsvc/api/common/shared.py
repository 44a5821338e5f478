"""What all calls about one flag set use together: made for the first of them, ended after the last."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedBySet(dict[str, T], Generic[T]):
    """The things in use, by flag set. `make` and `end` are called with the flag set."""

    def __init__(self, make: Callable[[str], T], end: Callable[[str, T], None]) -> None:
        super().__init__()
        self._make, self._end = make, end
        self._users: Counter[str] = Counter()

    @contextlib.contextmanager
    def of(self, flag_set: str) -> Iterator[T]:
        """Return what is shared of a set. It is kept as long as any caller is in this block."""
        shared = self.get(flag_set)
        if shared is None:
            shared = self[flag_set] = self._make(flag_set)
        self._users[flag_set] += 1
        try:
            yield shared
        finally:
            self._users[flag_set] -= 1
            if not self._users[flag_set]:
                del self._users[flag_set], self[flag_set]
                self._end(flag_set, shared)
