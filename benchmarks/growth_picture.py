"""Draws the curves of benchmarks.growth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt


def draw(parts: Mapping[str, Mapping[str, Mapping[str, float]]], path: Path) -> None:
    """Write the picture: a panel for each part, both axes logarithmic, so that a slope is an exponent."""
    drawing, panels = plt.subplots(1, len(parts), figsize=(4 * len(parts), 4), layout="constrained", squeeze=False)
    for panel, (name, curves) in zip(panels[0], parts.items(), strict=True):
        for label, curve in curves.items():
            panel.plot([int(at) for at in curve], list(curve.values()), marker="o", markersize=3, label=label)
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_title(name, fontsize=10)
        panel.legend(fontsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    drawing.savefig(path, dpi=110)
    plt.close(drawing)


def histogram(waits_ms: Mapping[str, list[float]], path: Path) -> None:
    """Write the picture of how long toggles took to be seen on other replicas, by the number of replicas."""
    drawing, panel = plt.subplots(figsize=(7, 4), layout="constrained")
    panel.hist(list(waits_ms.values()), bins=40, label=list(waits_ms), histtype="step", density=True)
    panel.set_xlabel("milliseconds from the toggle's call to another replica's watch")
    panel.set_ylabel("density")
    panel.legend(fontsize=8)
    panel.spines[["top", "right"]].set_visible(False)
    drawing.savefig(path, dpi=110)
    plt.close(drawing)
