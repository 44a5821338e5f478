"""Draws the figures of benchmarks.engine."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt


def draw(figures: dict[str, tuple[float, float]], path: Path) -> None:
    """Write the picture: two bars per rule, microseconds on a logarithmic axis."""
    drawing, axes = plt.subplots(figsize=(11, 5), layout="constrained")
    places = range(len(figures))
    for offset, (label, colour, index) in ((0.2, ("flagsvc", "#3b7dd8", 0)), (-0.2, ("flagd-core", "#b07a4a", 1))):
        widths = [pair[index] for pair in figures.values()]
        bars = axes.barh([p + offset for p in places], widths, 0.38, label=label, color=colour)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=9)
    axes.set_yticks(list(places), list(figures))
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("microseconds per evaluation (log), median of rounds")
    axes.set_title("The same rules and contexts in both engines, alternating in one process")
    axes.margins(x=0.12)
    axes.legend(loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)
    drawing.savefig(path, dpi=110)
    plt.close(drawing)
