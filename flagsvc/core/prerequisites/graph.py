"""The order in which flags that depend on one another are evaluated: parents first, found without recursion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from .definition import MAX_DEPTH

Parents = Callable[[str], Sequence[str]]
"""From a key to the keys of the flags that this flag depends on; none for one that does not exist."""
_SHOWN = 12


class NoOrder(Exception):
    """The flags cannot be evaluated in any order. The message is for those who write flags."""


class Cycle(NoOrder):
    """A flag depends on itself. `path` begins and ends with the same key."""

    def __init__(self, path: Sequence[str]) -> None:
        self.path = tuple(path)
        shown = self.path if len(path) <= _SHOWN else (*path[: _SHOWN - 1], "...", path[-1])
        super().__init__(f"they depend on themselves: {' -> '.join(shown)}")


class TooDeep(NoOrder):
    """The longest chain of prerequisites is longer than MAX_DEPTH."""

    def __init__(self) -> None:
        super().__init__(f"a chain of more than {MAX_DEPTH} flags that depend on one another")


def order_of(key: str, parents: Parents, visit: Callable[[], None] = lambda: None) -> list[str]:
    """Return the keys that a flag depends on, each once and after its own parents, and the key itself as the last.

    `visit` is called for each flag and each mention of one; it may raise. Raises Cycle, and TooDeep.
    """
    heights = _heights(key, parents, visit)
    if heights[key] > MAX_DEPTH:
        raise TooDeep
    return list(heights)


def height_of(key: str, parents: Parents) -> int:
    """Return how many flags the longest chain above a flag has. Raises Cycle."""
    return _heights(key, parents, lambda: None)[key]


def _heights(key: str, parents: Parents, visit: Callable[[], None]) -> dict[str, int]:
    heights: dict[str, int] = {}
    path, pending = [key], [iter(parents(key))]
    open_keys = {key}
    visit()
    while path:
        for parent in pending[-1]:
            visit()
            if parent in heights:
                continue
            if parent in open_keys:
                raise Cycle([*path[path.index(parent) :], parent])
            path.append(parent)
            open_keys.add(parent)
            pending.append(iter(parents(parent)))
            break
        else:
            done = path.pop()
            pending.pop()
            open_keys.discard(done)
            heights[done] = max((1 + heights[parent] for parent in parents(done)), default=0)
    return heights


def children_in(graph: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return, by key, the flags that name this one, in the order of the graph."""
    children: dict[str, list[str]] = {}
    for child, parents in graph.items():
        for parent in parents:
            children.setdefault(parent, []).append(child)
    return children


def descendants(keys: Iterable[str], children: Callable[[str], Iterable[str]]) -> Iterator[str]:
    """Yield the flags that depend on these, directly or through others, each once; also where there is a cycle.

    `children` may change between two steps.
    """
    found: set[str] = set()
    pending = list(keys)
    while pending:
        for child in tuple(children(pending.pop())):
            if child not in found:
                found.add(child)
                pending.append(child)
                yield child
