"""Draws the figures of benchmarks.revocation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

_PANELS = (
    ("answer_s", "from the request to the answer"),
    ("call_s", "from the answer to the start of\nthe last accepted call"),
    ("stream_s", "from the answer to the end of\nthe last open stream"),
)
_COLOURS = ("#3b7dd8", "#b07a4a", "#c2504b")


def draw(revocations: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the picture: one line for each level waited for, with every revocation from the fastest to the slowest."""
    drawing, axes = plt.subplots(1, len(_PANELS), figsize=(13, 4.4), layout="constrained", sharey=True)
    levels = list(dict.fromkeys(each["level"] for each in revocations))
    for panel, (name, title) in zip(axes, _PANELS, strict=True):
        for level, colour in zip(levels, _COLOURS, strict=False):
            values = sorted(each[name] * 1e3 for each in revocations if each["level"] == level)
            shares = [100 * (n + 1) / len(values) for n in range(len(values))]
            panel.step(values, shares, where="post", color=colour, label=level)
        panel.axvline(1_000, color="#9a9a9a", linewidth=1)
        panel.set_xscale("symlog", linthresh=1)
        panel.set_xlim(left=0)
        panel.set_xlabel("milliseconds", fontsize=9)
        panel.set_title(title, fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("% of revocations", fontsize=9)
    axes[0].legend(fontsize=8, loc="lower right")
    drawing.suptitle("A revoked token: 3 replicas, 1,000 open streams, evaluations under way (grey line: one second)")
    drawing.savefig(path, dpi=110)
    plt.close(drawing)
