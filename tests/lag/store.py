"""A store with many ordinary flags and a few hostile ones, as they may stand in a store from before all limits."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

from flagsvc.adapters.sqlite import SqliteStore
from flagsvc.core.documents import dumps
from flagsvc.core.model import Flag, Status

CONDITIONS = [
    {"==": [{"var": "tier"}, "gold"]},
    {">=": [{"var": "age"}, 18]},
    {"in": [{"var": "country"}, ["CH", "DE"]]},
]
ORDINARY = {"if": [{"and": CONDITIONS}, "on", "off"]}
INNER = {"some": [list(range(200)), {"==": [{"var": ""}, "x"]}]}


def _rule(condition: Any) -> str:
    return json.dumps({"if": [condition, "on", "off"]})


ROLLING = {
    "from": "off",
    "to": "on",
    "linear": True,
    "points": [{"time": f"{2001 + year}-01-01T00:00:00Z", "share": year * 2} for year in range(50)],
}
"""As many points as there may be, and lines so slow that each is many pieces."""
HOSTILE: dict[str, dict[str, Any]] = {
    "searches": {"targeting": _rule({"or": [{"in": ["ab", {"var": "text"}]}] * 3_125})},
    "long-searches": {"targeting": _rule({"or": [{"in": ["a" * 98 + "b", {"var": "text"}]}] * 500})},
    "most-parts": {"targeting": _rule({"or": [{"==": [{"var": "tier"}, f"t{i}"]} for i in range(2_400)]})},
    "arithmetic": {"targeting": _rule({"or": [{"<": [{"-": [{"var": "text"}, {"var": "text"}]}, 0]}] * 1_200})},
    "loop": {"targeting": _rule({"some": [{"var": "list"}, {"==": [{"var": ""}, "x"]}]})},
    "loop-of-objects": {"targeting": _rule({"some": [{"var": "list"}, {"in": [{"var": "a"}, ["y"]]}]})},
    "loops": {"targeting": _rule({"some": [{"var": "list"}, INNER]})},
    "texts": {"targeting": _rule({"or": [{"==": [{"cat": [{"var": "text"}, {"var": "list"}]}, "x"]}] * 1_000})},
    "noted": {"targeting": _rule({"or": [{"if": ["a text is a constant condition", "on", "on"]}] * 2_400})},
    "splits": {"targeting": json.dumps({"fractional": [{"var": "text"}, ["on", 1], ["off", 1]]})},
    "large-value": {"variants": {"on": {f"{i:x}": 0 for i in range(7_000)}}, "default_variant": "on"},
    "rolling": {
        "rollout": ROLLING,
        "variants": {name: {f"{i:x}": 0 for i in range(4_900)} for name in ("on", "off", "other")},
        "default_variant": "off",
    },
    "long-value": {"variants": {"on": "x" * 65_000}, "default_variant": "on"},
}


def fill(path: Path, count: int) -> None:
    """Write the store's file."""

    async def created() -> None:
        store = SqliteStore(f"sqlite:///{path}")
        await store.open()
        await store.close()

    asyncio.run(created())
    hostile = enumerate(HOSTILE.items(), 1)
    flags = [Flag(key=key, status=Status.ENABLED, revision=i, **fields) for i, (key, fields) in hostile]
    rule = json.dumps(ORDINARY)
    split = json.dumps({"fractional": [["on", 1], ["off", 1]]})
    rules = (rule, None) * 49 + (split, None)
    flags += [
        Flag(key=f"flag-{i}", status=Status.ENABLED, targeting=rules[i % 100], revision=len(HOSTILE) + i)
        for i in range(1, count + 1)
    ]
    with sqlite3.connect(path) as db:
        rows = [(flag.flag_set, flag.key, flag.revision, dumps(flag)) for flag in flags]
        db.executemany("INSERT INTO flags VALUES (?, ?, ?, ?)", rows)
        db.execute("INSERT INTO revisions VALUES ('default', ?)", (len(flags) + 1,))
    db.close()
