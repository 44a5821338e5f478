"""Draws the figures of benchmarks.client."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.client_cost import Figure

_TITLES = {
    ("local", "us"): "local evaluation, three conditions,\nmicroseconds",
    ("network", "us CPU"): "a call's CPU in the caller's process,\nmicroseconds",
    ("import", "ms"): "import in a fresh process,\nmilliseconds",
    ("import", "MB"): "resident memory after it,\nmegabytes",
    ("fleet", "ms"): "a toggle reaches 1,000 local clients,\nmilliseconds (log)",
}
_MEASURED, _COMPARISON, _BUDGET = "#3b7dd8", "#9a9a9a", "#c2504b"


def draw(figures: dict[str, list[Figure]], path: Path) -> None:
    """Write the picture: one panel per kind of figure, medians as bars; minimum, maximum and budget as lines."""
    drawing, axes = plt.subplots(2, 3, figsize=(16, 6.5), layout="constrained")
    panels = list(axes.flat)
    for panel, ((part, unit), title) in zip(panels, _TITLES.items(), strict=False):
        _panel(panel, [figure for figure in figures[part] if figure.unit == unit], title, log=part == "fleet")
    for panel in panels[len(_TITLES) :]:
        panel.set_axis_off()
    drawing.suptitle(
        "The Python client (bars: median of rounds; black: min to max; red: budget; grey: without a budget)"
    )
    drawing.savefig(path, dpi=110)
    plt.close(drawing)


def _panel(panel: Axes, figures: list[Figure], title: str, *, log: bool) -> None:
    medians = [figure.median for figure in figures]
    spread = [[f.median - min(f.values) for f in figures], [max(f.values) - f.median for f in figures]]
    colours = [_COMPARISON if figure.budget is None else _MEASURED for figure in figures]
    panel.barh(range(len(figures)), medians, 0.6, xerr=spread, capsize=3, color=colours)
    for place, figure in enumerate(figures):
        panel.annotate(f"{figure.median:,.3g}", (max(figure.values), place), (5, -3), textcoords="offset points")
        if figure.budget is not None:
            panel.plot([figure.budget] * 2, [place - 0.4, place + 0.4], color=_BUDGET, linewidth=2)
    panel.set_yticks(range(len(figures)), [figure.name for figure in figures], fontsize=9)
    panel.invert_yaxis()
    if log:
        panel.set_xscale("log")
    panel.set_title(title, fontsize=10)
    panel.margins(x=0.15)
    panel.spines[["top", "right"]].set_visible(False)
