"""Compiles flagd's fractional operator. Hashing and bucketing are in `fractional`."""

from __future__ import annotations

import sys
from bisect import bisect_right
from typing import Any

from ..model import JsonValue
from .compiler import Call, as_json
from .fractional import MAX_TOTAL, Hashing, Split, hashing, split_of, whole
from .nodes import SPLIT_STEPS, TEXT_STEP, Compiled, Node, Run, literal


def fractional(call: Call) -> Node:
    """Compile a split. The first argument is the value to hash; without one, flag key and targeting key are hashed."""
    if not call.expect(1, sys.maxsize):
        return literal(None)
    _check_shares(call)
    nodes = call.arguments()
    size = 1 + sum(node.size for node in nodes)
    version = call.compiler.fractional_version
    hashes = hashing(version, call.compiler.flag_key)
    general = _general(nodes, hashes, version, traced=call.compiler.traced)
    by_key = isinstance(call.raw[0], list)
    shares = nodes if by_key else nodes[1:]
    if call.compiler.traced or not all(node.constant for node in shares):
        return Node(general, size)
    split = split_of([node.value for node in shares], version)
    if split is None:
        return literal(None, size) if by_key else Node(general, size)
    return Node(_by_key(split, hashes) if by_key else _by_value(split, hashes, nodes[0].run, general), size)


def _general(nodes: list[Node], hashes: Hashing, version: int, *, traced: bool) -> Compiled:
    runs = tuple(node.run for node in nodes)

    def general(data: Any, run: Run) -> JsonValue:
        step = run.step if traced else None
        arguments = [each(data, run) for each in runs]
        run.charge(arguments)
        run.spend(SPLIT_STEPS)
        seed = arguments[0] if not isinstance(arguments[0], list) else run.context.get("targetingKey")
        if seed.__class__ is str:
            run.charge_hash(seed)
        hashed = hashes.of_seed(arguments[0], run.context)
        split = split_of(arguments if isinstance(arguments[0], list) else arguments[1:], version)
        if hashed is None or split is None:
            if step is not None:
                step.note = "no split: " + ("nothing to hash" if hashed is None else "invalid weights")
            return None
        if step is not None:
            step.note = f"bucket {split.bucket(hashed)} of {split.total}, hash {hashed:#010x}"
        return split.choose(hashed)

    return general


def _by_key(split: Split, hashes: Hashing) -> Compiled:
    of_key, variants, ends, total = hashes.of_key, split.variants, split.ends, split.total

    def by_key(_data: Any, run: Run) -> JsonValue:
        key = run.context.get("targetingKey")
        if key.__class__ is not str or not key:
            return None
        if len(key) > TEXT_STEP:
            run.charge_hash(key)
        hashed = of_key(key)
        return None if hashed is None else variants[bisect_right(ends, (hashed * total) >> 32)]

    return by_key


def _by_value(split: Split, hashes: Hashing, seed: Compiled, general: Compiled) -> Compiled:
    of_text, variants, ends, total = hashes.of_text, split.variants, split.ends, split.total

    def by_value(data: Any, run: Run) -> JsonValue:
        value = seed(data, run)
        if value.__class__ is not str or len(value) > TEXT_STEP:
            return general(data, run)
        hashed = of_text(value)
        return None if hashed is None else variants[bisect_right(ends, (hashed * total) >> 32)]

    return by_value


def _check_shares(call: Call) -> None:
    """Refuse constant shares that are never valid. Computed negative weights count as 0, as in flagd."""
    first = 0 if isinstance(call.raw[0], list) else 1
    if len(call.raw) <= first:
        call.refuse("fractional has no variants; it must have shares such as [VARIANT, WEIGHT]")
    total = 0
    for index, share in enumerate(call.raw[first:], first):
        if isinstance(share, dict) and len(share) == 1:
            continue
        if not isinstance(share, list) or not 1 <= len(share) <= 2:  # noqa: PLR2004  variant, weight
            call.refuse(f"the share is {as_json(share)}; it must be [VARIANT, WEIGHT] or [VARIANT]", index)
            continue
        if len(share) == 1 or (isinstance(share[1], dict) and len(share[1]) == 1):
            continue
        weight = whole(share[1])
        if weight is None or weight < 0:
            call.refuse(f"the weight is {as_json(share[1])}; it must be an integer of at least 0", index, 1)
        total += weight or 0
    if total > MAX_TOTAL:
        call.refuse(f"the sum of the weights exceeds {MAX_TOTAL}")
