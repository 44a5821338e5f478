"""Draws for how long old answers went on after a change."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np

from tests.faults.staleness import Staleness

mpl.use("Agg")
from matplotlib import pyplot as plt

_MIN_S, _MAX_S, _BINS = 0.001, 30.0, 46
_TICKS = (0, 5, 10, 30, 100, 300, 1_000, 3_000)
_COLOURS = {"no fault": "#3b7dd8", "during faults": "#c2504b"}


def draw(found: Staleness, bound_s: float, path: Path) -> None:
    """Write the histogram of answers that did not say STALE; changes without any old answer are counted separately."""
    quiet = [lag.unsaid_s for lag in found.lags if not lag.kinds]
    stormy = [lag.unsaid_s for lag in found.lags if lag.kinds]
    bins = np.geomspace(_MIN_S, _MAX_S, _BINS)
    drawing, panel = plt.subplots(figsize=(11, 4.6), layout="constrained")
    parts = [np.clip([s for s in part if s > 0], _MIN_S, _MAX_S) for part in (quiet, stormy)]
    names = [
        f"{name}: {len(part):,} of {len(whole):,}"
        for name, part, whole in zip(_COLOURS, parts, (quiet, stormy), strict=True)
    ]
    panel.hist(parts, bins=list(bins), stacked=True, color=list(_COLOURS.values()), label=names)
    panel.axvline(bound_s, color="#555555", linestyle="--", linewidth=1)
    panel.annotate(
        f"bound {bound_s:g} s",
        (bound_s, 1),
        xycoords=("data", "axes fraction"),
        xytext=(4, -12),
        textcoords="offset points",
        fontsize=9,
    )
    panel.set_xscale("log")
    panel.set_yscale("symlog", linthresh=10)
    panel.set_yticks(_TICKS, [f"{tick:,}" for tick in _TICKS])
    panel.set_ylim(0, 1.3 * max(10.0, float(panel.dataLim.ymax)))
    panel.set_xlabel("seconds from a change's answer to the end of the last old answer that did not say STALE")
    panel.set_ylabel("changes, once for each replica")
    panel.set_title("Changes after which a replica still gave an old answer", fontsize=11)
    panel.legend(title="with an old answer at all", fontsize=9, title_fontsize=9, loc="upper left", frameon=False)
    panel.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, dpi=110)
    plt.close(drawing)
