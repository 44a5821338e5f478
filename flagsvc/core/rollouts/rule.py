"""A rollout as a targeting rule, of operators that every engine has: what is evaluated here is what is exported."""

from __future__ import annotations

from ..model import JsonValue
from .definition import Rollout
from .shares import Piece, pieces_of

_NOW: JsonValue = {"var": "$flagd.timestamp"}


def rule_of(rollout: Rollout, flag_key: str) -> JsonValue:
    """Return the rule. Its result is always one of the two variants: callers without a text to bucket by do not move.

    The text that is hashed is written out, because engines of version 3 hash the short form otherwise.
    """
    key: JsonValue = {"var": rollout.bucket_by}
    is_text: JsonValue = {"starts_with": [key, ""]}  # flagd's own operators take any value, and are null for no text
    moved = _tree(pieces_of(rollout), rollout, {"cat": [flag_key, key]})
    return {"if": [{"and": [key, is_text]}, moved, rollout.from_variant]}


def after_targeting(targeting: JsonValue, rollout_rule: JsonValue) -> JsonValue:
    """Return the rule of a flag that has both: the rollout decides where the targeting rule gives null."""
    return {"if": [{"===": [targeting, None]}, rollout_rule, targeting]}


def _tree(pieces: list[Piece], rollout: Rollout, seed: JsonValue) -> JsonValue:
    if len(pieces) == 1:
        return _split(pieces[0], rollout, seed)
    middle = len(pieces) // 2
    early, late = _tree(pieces[:middle], rollout, seed), _tree(pieces[middle:], rollout, seed)
    return early if early == late else {"if": [{"<": [_NOW, pieces[middle].start]}, early, late]}


def _split(piece: Piece, rollout: Rollout, seed: JsonValue) -> JsonValue:
    if not piece.slope and piece.weight in (0, piece.total):
        return rollout.to_variant if piece.weight else rollout.from_variant
    moved, rest = _weights(piece)
    return {"fractional": [seed, [rollout.to_variant, moved], [rollout.from_variant, rest]]}


def _weights(piece: Piece) -> tuple[JsonValue, JsonValue]:
    """Return the weights of those who moved and of all others. Engines take no negative and no fractional ones."""
    weight, rest = piece.weight, piece.total - piece.weight
    if not piece.slope:
        return weight, rest
    passed: JsonValue = {"-": [_NOW, piece.start]}
    if abs(piece.slope) > 1:
        passed = {"*": [abs(piece.slope), passed]}
    less: JsonValue = {"-": [rest if piece.slope > 0 else weight, passed]}
    more: JsonValue = {"+": [weight if piece.slope > 0 else rest, passed]}
    return (more, less) if piece.slope > 0 else (less, more)
