"""Draws the figures of benchmarks.tiers."""

from __future__ import annotations

import statistics
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

_PANELS = (
    ("evaluations/s", "evaluations per second,\n64 calls in flight", False),
    ("CPU us", "server CPU per evaluation,\nmicroseconds", False),
    ("p99 ms", "p99 at 300 calls per second,\nmilliseconds", False),
    ("MongoDB finds/1,000", "MongoDB finds per 1,000\nevaluations (log)", True),
)
_COLOURS = {
    "MongoDB only": "#b07a4a",
    "MongoDB only, PyMongo's client": "#8a9a4a",
    "Redis before MongoDB": "#c2504b",
    "near cache": "#3b7dd8",
    "bare echo": "#9a9a9a",
}


def draw(figures: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Write the picture: one panel per figure, medians as bars, minimum and maximum of the rounds as whiskers."""
    drawing, axes = plt.subplots(1, len(_PANELS), figsize=(15, 4.6), layout="constrained")
    for panel, (figure, title, log) in zip(axes, _PANELS, strict=True):
        _panel(panel, {n: f[figure] for n, f in figures.items() if figure in f}, title, log=log)
    drawing.suptitle(
        "The same Zipf load over 1,000 flags, one toggle per second (bars: median of rounds; lines: min to max)"
    )
    drawing.savefig(path, dpi=110)
    plt.close(drawing)


def _panel(panel: Axes, found: dict[str, list[float]], title: str, *, log: bool) -> None:
    names = [name for name in _COLOURS if name in found]
    medians = [statistics.median(found[name]) for name in names]
    spread = [[m - min(found[n]) for m, n in zip(medians, names, strict=True)]]
    spread.append([max(found[n]) - m for m, n in zip(medians, names, strict=True)])
    panel.bar(names, medians, yerr=spread, capsize=4, color=[_COLOURS[name] for name in names])
    if log:
        panel.set_yscale("log")
    panel.set_title(title, fontsize=10)
    panel.set_xticks(range(len(names)), [name.replace(" before ", "\nbefore ").replace(" ", "\n", 1) for name in names])
    panel.tick_params(axis="x", labelsize=8)
    for number, median in enumerate(medians):
        value = f"{median:,.3g}" if median < 1_000 else f"{median:,.0f}"
        offset = {"xytext": (5, 4), "textcoords": "offset points"}  # clear of the whisker
        panel.annotate(value, (number, median), fontsize=9, **offset)
    panel.margins(y=0.18)
    panel.spines[["top", "right"]].set_visible(False)
