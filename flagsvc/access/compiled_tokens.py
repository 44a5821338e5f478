"""Tokens with the callers that their secrets stand for. Pure; thousands are compiled beside the event loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple

from flagsvc.core.access.identity import Identity
from flagsvc.core.access.tokens import Token


class Compiled(NamedTuple):
    """A token, and whom its secrets stand for, by digest."""

    token: Token
    identities: Mapping[bytes, Identity]


Known = Mapping[str, Compiled]
"""Tokens by id."""


def compiled(tokens: Iterable[Token], known: Known) -> Known:
    """Return the tokens by id. One that is known already, and is the same, keeps its objects."""
    found = {}
    for token in tokens:
        before = known.get(token.id)
        is_same = before is not None and before.token == token
        found[token.id] = before if is_same and before is not None else Compiled(token, token.identities())
    return found


class Tokens(Mapping[str, Token]):
    """The tokens alone, by id, of parts that have no id in common."""

    __slots__ = ("_parts",)

    def __init__(self, *parts: Known) -> None:
        self._parts = parts

    def __getitem__(self, token_id: str) -> Token:
        for part in self._parts:
            if token_id in part:
                return part[token_id].token
        raise KeyError(token_id)

    def __iter__(self) -> Iterator[str]:
        return chain(*self._parts)

    def __len__(self) -> int:
        return sum(map(len, self._parts))
