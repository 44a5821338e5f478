"""Draws docs/images/rollouts.png: who has a variant when, in a rollout that is paused, edited and rolled back.

Run it as `python -m benchmarks.rollout_picture`.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from flagsvc.core.evaluation import Prepared, prepare
from flagsvc.core.model import Flag, Status
from flagsvc.core.rollouts import MAX_SHARE, Point, Rollout, continued, paused, resumed, rolled_back, share_at, to_json

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "rollouts.png"
DAY, START = 86_400, 1_796_083_200
PEOPLE = [f"user-{number}" for number in range(60)]


def _versions() -> list[tuple[float, str, Rollout]]:
    """Return each version of the rollout, with the day on which it was written, and the words for it."""
    week = (Point(START, 0), Point(START + 7 * DAY, MAX_SHARE))
    first = Rollout(from_variant="off", to_variant="on", points=week, linear=True)
    held = paused(first, START + 2 * DAY)
    again = resumed(held, START + 3 * DAY)
    steps = (Point(START + 5 * DAY, 60_000), Point(START + 6 * DAY, 80_000))
    edited = continued(Rollout(from_variant="off", to_variant="on", points=steps), again, START + 4 * DAY)
    back = rolled_back(edited, START + 7 * DAY, 2 * DAY)
    return [(0, "begun", first), (2, "paused", held), (3, "resumed", again), (4, "edited", edited), (7, "back", back)]


def _prepared(of: Rollout) -> Prepared:
    return prepare(Flag(key="new-checkout", status=Status.ENABLED, rollout=to_json(of)))


def draw(path: Path) -> None:
    """Write the picture."""
    versions = _versions()
    moments = [day / 48 for day in range(-12, 48 * 9 + 25)]
    current = [[each for each in versions if each[0] <= max(day, 0)][-1][2] for day in moments]
    compiled = {id(of): _prepared(of) for _, _, of in versions}
    has_it = {
        key: [
            compiled[id(of)].evaluate({"targetingKey": key}, START + day * DAY).variant == "on"
            for day, of in zip(moments, current, strict=True)
        ]
        for key in PEOPLE
    }
    drawing, (above, below) = plt.subplots(2, 1, figsize=(9, 5.6), layout="constrained", sharex=True)
    shares = [float(share_at(of, START + day * DAY)) * 100 for day, of in zip(moments, current, strict=True)]
    above.plot(moments, shares, color="#3b7dd8")
    above.set_ylabel("% of callers", fontsize=9)
    above.set_ylim(0, 105)
    for day, word, _ in versions:
        above.axvline(day, color="#9a9a9a", linewidth=0.8)
        above.annotate(word, (day, 96), xytext=(3, 0), textcoords="offset points", fontsize=8)
    for row, key in enumerate(sorted(PEOPLE, key=lambda key: -sum(has_it[key]))):
        days = [day for day, moved in zip(moments, has_it[key], strict=True) if moved]
        below.plot(days, [row] * len(days), color="#c2504b", linewidth=1.6, solid_capstyle="butt")
    below.set_ylabel(f"{len(PEOPLE)} callers", fontsize=9)
    below.set_yticks([])
    below.set_xlabel("days", fontsize=9)
    for panel in (above, below):
        panel.spines[["top", "right"]].set_visible(False)
    drawing.suptitle("Who has moved stays, until the way back: last in, first out")
    drawing.savefig(path, dpi=110)
    plt.close(drawing)


if __name__ == "__main__":
    draw(PICTURE)
