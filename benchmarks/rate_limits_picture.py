"""Draws the figures of benchmarks.rate_limits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt


def draw(rows: Sequence[dict[str, Any]], rate: float, path: Path) -> None:
    """Write the picture: what the caller over its rate gets, and how long others wait."""
    drawing, (caller, others) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    greedy = [row for row in rows if row["offered"]]
    names = [row["phase"].replace(", ", ",\n").replace(" at ", "\nat ") for row in greedy]
    caller.bar(names, [row["offered"] for row in greedy], color="#d9d9d9", label="asked for")
    caller.bar(names, [row["accepted"] for row in greedy], color="#3b7dd8", label="accepted")
    caller.axhline(rate, color="#c2504b", linewidth=1)
    caller.set_title("the caller over its rate, calls a second (red: its rate)", fontsize=10)
    caller.legend(fontsize=8, loc="center right")
    names = [row["phase"].replace(", ", ",\n").replace(" at ", "\nat ") for row in rows]
    others.bar(names, [row["p99_ms"] for row in rows], color="#b07a4a", label="p99")
    others.bar(names, [row["p50_ms"] for row in rows], color="#3b7dd8", label="median")
    others.set_title("evaluations of others, milliseconds", fontsize=10)
    others.legend(fontsize=8, loc="upper left")
    for panel in (caller, others):
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
    drawing.suptitle("3 replicas, one caller at ten times its rate")
    drawing.savefig(path, dpi=110)
    plt.close(drawing)
