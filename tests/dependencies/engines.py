"""Flag sets as they are exported, and what flagd's unmodified engines make of them beside flagsvc."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import GeneralError

from flagsvc.api.flagd.definitions import Definition, definition_of
from flagsvc.core.evaluation import prepare
from flagsvc.core.family import evaluate_family
from flagsvc.core.flagd.prerequisites import NOT_EXPORTED
from flagsvc.core.model import Flag, Status
from tests.dependencies.graphs import CONTEXTS, NOW, world
from tests.dependencies.test_family import on
from tests.providers import node_app

PEOPLE: list[dict[str, Any]] = [
    {"targetingKey": f"user-{n}", "plan": ("pro", "free")[n % 2], "n": n} for n in range(12)
]
ASKED = [*map(dict, CONTEXTS), *PEOPLE]
KEYED = {"cat": [{"var": "$flagd.flagKey"}, {"var": "targetingKey"}]}
AT_ONCE = 500
"""Graphs in one set of an engine."""
Variants = dict[str, list[str | None]]
"""By flag, what each context gets."""


def split(text: Any = KEYED, **weights: int) -> dict[str, Any]:
    return {"fractional": [text, *([name, weight] for name, weight in weights.items())]}


def ruled(key: str, rule: Any, *parents: str, **fields: Any) -> Flag:
    return on(key, *parents, targeting=json.dumps(rule), **fields)


FIELD = {"if": [{"in": [{"var": "plan"}, ["pro", {"var": ["$flagd.flagKey", "x"]}]]}, None, split(on=1, off=2)]}
ANY = "own-any"
"""The one flag with values that are no booleans."""
BY_HAND = [
    ruled("half", split(on=1, off=1)),
    ruled("half-off", split(on=1, off=1), default_variant="off"),
    replace(ruled("half-beta", split(on=1, off=1)), status=Status.BETA),
    ruled("field", FIELD),
    ruled("own-split", {"fractional": [["on", 50], ["off", 50]]}, "half", "half-off"),
    ruled("own-null", {"if": [{"==": [{"var": "plan"}, "pro"]}, "off"]}, "field"),
    replace(ruled("own-beta", {"if": [{"==": [{"var": "plan"}, "pro"]}, "on"]}, "half-beta"), status=Status.BETA),
    ruled(ANY, {"var": "plan"}, "half", variants={"pro": 1, "free": 2, "on": 3}, default_variant="on"),
    replace(on("wants-off"), prerequisites=[{"flagKey": "field", "variants": ["off"]}]),
    on("below", "own-split", "half"),
    on("never", "none"),
]


def exported(flags: Mapping[str, Flag]) -> dict[str, Definition]:
    family = {key: (flag, prepare(flag)) for key, flag in flags.items()}
    return {key: definition_of(flag, prepared, family=family) for key, (flag, prepared) in family.items()}


def ours(flags: Mapping[str, Flag], keys: Iterable[str], bucketing: int) -> Variants:
    prepared = {name: prepare(replace(flag, bucketing=bucketing)) for name, flag in flags.items()}
    return {key: [evaluate_family(key, prepared.get, context, NOW).variant for context in ASKED] for key in keys}


class Worlds:
    """Flag sets, and all their flags as one set for flagd's engines, under keys that no two sets share.

    `asked`: of each set, the keys of the flags that engines evaluate, with their names in the common set. `refused`:
    why the others are disabled there.
    """

    def __init__(self, sets: Iterable[Mapping[str, Flag]]) -> None:
        self.members: dict[str, Any] = {}
        self.asked: list[tuple[Mapping[str, Flag], dict[str, str]]] = []
        self.refused: list[str] = []
        for number, flags in enumerate(sets):
            names: dict[str, str] = {}
            for key, sent in exported(flags).items():
                name = key if flags is HAND_MADE else f"{number}-{key}"
                self.members[name] = json.loads("{" + sent.text + "}")[key]
                if not sent.problem:
                    names[key] = name
                    continue
                assert self.members[name]["state"] == "DISABLED"
                assert "targeting" not in self.members[name]
                told = self.members[name].get("metadata", {}).get(NOT_EXPORTED, "")
                assert told in sent.problem
                self.refused.append(sent.problem)
            self.asked.append((flags, names))

    def names(self) -> list[str]:
        return [name for _, names in self.asked for name in names.values()]

    def flags(self) -> list[Flag]:
        """Return those that engines evaluate."""
        return [flags[key] for flags, names in self.asked for key in names]

    def document(self) -> dict[str, Any]:
        """Return the set without the flag that not every engine's program asks for."""
        return {"flags": {name: each for name, each in self.members.items() if name != ANY}}

    def differences(self, bucketing: int, found: Variants) -> list[Any]:
        """Return where an engine gives another variant; it may have left out ANY."""
        return [
            (flags[key], context, expected, variant)
            for flags, names in self.asked
            for key, row in ours(flags, names, bucketing).items()
            if names[key] in found or names[key] != ANY
            for context, expected, variant in zip(ASKED, row, found[names[key]], strict=True)
            # Engines join a missing field to a text in different ways, in the parent as well.
            if expected != variant and (flags is not HAND_MADE or "targetingKey" in context)
        ]


HAND_MADE: Mapping[str, Flag] = {flag.key: flag for flag in BY_HAND}


def in_parts(seeds: Sequence[int]) -> Iterator[Worlds]:
    """Return random graphs, as many at a time as an engine takes without many seconds."""
    for start in range(0, len(seeds), AT_ONCE):
        yield Worlds(world(seed).flags for seed in seeds[start : start + AT_ONCE])


def compared(seeds: Sequence[int], bucketing: int, engine: Callable[[Worlds], Variants]) -> str:
    """Compare an engine on random graphs, and return how many flags were evaluated and why the others were refused."""
    flags, reasons = Counter[str](), Counter[str]()
    for worlds in in_parts(seeds):
        assert worlds.differences(bucketing, engine(worlds)) == []
        for flag in worlds.flags():
            flags.update(("all", *["needs"] * bool(flag.prerequisites), *["shares"] * bool(flag.evaluators)))
        reasons.update(map(kind_of, worlds.refused))
    refused = "".join(f"\n  {count} refused: {reason}" for reason, count in reasons.most_common())
    kinds = f"{flags['all']} flags ({flags['needs']} with prerequisites, {flags['shares']} with segments)"
    return f"{len(seeds)} graphs: {kinds} x {len(ASKED)} contexts are equal{refused}"


KINDS = ("depend on themselves", "has no value", "The prerequisites are invalid", "more than 10 flags")


def kind_of(problem: str) -> str:
    return next(kind for kind in KINDS if kind in problem)


def in_python(worlds: Worlds) -> Variants:
    core = FlagdCore()
    core.set_flags(json.dumps({"flags": worlds.members}))

    def variant(name: str, context: dict[str, Any]) -> str | None:
        fields = dict(context)
        asked = EvaluationContext(fields.pop("targetingKey", None), fields)
        resolve: Any = core.resolve_integer_value if name == ANY else core.resolve_boolean_value
        try:
            found: str | None = resolve(name, 0 if name == ANY else False, asked).variant
        except GeneralError:  # the flag's own rule has chosen what is no variant: callers use their defaults
            return None
        return found

    return {name: [variant(name, context) for context in ASKED] for name in worlds.names()}


def in_node(worlds: Worlds) -> Variants:
    node_app.install()
    return run_engine([str(Path(sys.executable).with_name("node")), "moments.mjs"], node_app.FOLDER, worlds)


def run_engine(command: list[str], folder: Path, worlds: Worlds) -> Variants:
    """Return what a program makes of the set: JSON in, the variants by flag, moment and context out."""
    asked = json.dumps({"document": worlds.document(), "moments": [NOW], "contexts": ASKED})
    done = subprocess.run(command, cwd=folder, input=asked, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: rows[0] for name, rows in json.loads(done.stdout).items()}
