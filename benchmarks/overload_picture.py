"""Draws the figures of benchmarks.overload."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

_PARTS = (
    ("answered in time", "in time/s", "#3b7dd8"),
    ("CANCELLED or RESOURCE_EXHAUSTED", "refused/s", "#9a9a9a"),
    ("late", "late/s", "#c2504b"),
)


def draw(rows: dict[str, dict[str, float]], path: Path) -> None:
    """Write the picture: what became of the calls offered each second, and the worst answer of a health check."""
    drawing, (calls, health) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    names, bottom = list(rows), [0.0] * len(rows)
    for label, key, colour in _PARTS:
        heights = [_per_second(row)[key] for row in rows.values()]
        calls.bar(names, heights, bottom=bottom, color=colour, label=label)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    calls.set_title("calls offered per second, by what became of them", fontsize=10)
    calls.legend(fontsize=8, loc="upper left")
    health.bar(names, [row["health, worst ms"] for row in rows.values()], color="#3b7dd8")
    health.axhline(100, color="#c2504b", linewidth=1)
    health.set_yscale("log")
    health.set_title("health check, worst answer, milliseconds (log)", fontsize=10)
    for panel in (calls, health):
        panel.spines[["top", "right"]].set_visible(False)
    drawing.suptitle("One replica on one core, offered multiples of its peak; deadlines of 1 s")
    drawing.savefig(path, dpi=110)
    plt.close(drawing)


def _per_second(row: dict[str, float]) -> dict[str, float]:
    offered = row["offered/s"]
    refused = (row["CANCELLED"] + row["RESOURCE_EXHAUSTED"]) * offered
    return {"in time/s": row["in time/s"], "refused/s": refused, "late/s": row["late"] * offered}
