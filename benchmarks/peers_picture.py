"""Draws the figures of benchmarks.peers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

NOTHING = (0.0, 0.0)
"""For a load that a server does not answer."""


def draw(ratios: Mapping[str, Mapping[str, tuple[float, float]]], path: Path) -> None:
    """Write the picture: each server's calls per second and per CPU-second, with flagd as 1."""
    drawing, panels = plt.subplots(1, 2, figsize=(12, 5), layout="constrained", sharey=True)
    names = [name for name in next(iter(ratios.values())) if name != "flagd"]
    for of, (panel, title) in enumerate(zip(panels, ("calls per second", "calls per CPU-second"), strict=True)):
        for number, name in enumerate(names):
            places = [place + (number + 0.5) / (len(names) + 1) - 0.5 for place in range(len(ratios))]
            lengths = [row.get(name, NOTHING)[of] for row in ratios.values()]
            panel.barh(places, lengths, 1 / (len(names) + 1), label=name)
        panel.set_yticks(range(len(ratios)), list(ratios))
        panel.axvline(1, color="#c2504b", linewidth=1)
        panel.set_title(f"{title}, flagd = 1", fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    panels[1].legend(fontsize=8)
    drawing.savefig(path, dpi=110)
    plt.close(drawing)
