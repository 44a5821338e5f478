"""Reads scenarios of a .feature file: backgrounds, outlines with their examples, tags and tables of steps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_STEP = re.compile(r"(?:Given|When|Then|And|But) (.*)")
_NAMED = re.compile(r"(Feature|Background|Scenario Outline|Scenario|Examples):\s*(.*)")
Row = dict[str, str]


@dataclass
class Step:
    text: str
    table: list[Row] = field(default_factory=list)


@dataclass
class Scenario:
    name: str
    steps: list[Step]
    tags: frozenset[str]

    def __str__(self) -> str:
        return re.sub(r"\W+", "-", self.name)


@dataclass
class _Outline:
    name: str
    tags: frozenset[str]
    steps: list[Step] = field(default_factory=list)
    examples: list[tuple[frozenset[str], list[Row]]] = field(default_factory=list)

    def scenarios(self, background: list[Step]) -> Iterator[Scenario]:
        if not self.examples:
            yield Scenario(self.name, background + self.steps, self.tags)
        for tags, rows in self.examples:
            for row in rows:
                steps = [Step(_filled(step.text, row), step.table) for step in self.steps]
                yield Scenario(f"{self.name} {' '.join(row.values())}"[:90], background + steps, self.tags | tags)


def read(path: Path) -> list[Scenario]:
    """Return all scenarios of a file, one for each row of examples."""
    background: list[Step] = []
    outlines: list[_Outline] = []
    steps, rows, tags = background, list[Row](), frozenset[str]()
    header: list[str] = []
    for line in map(str.strip, path.read_text().splitlines()):
        if line.startswith("@"):
            tags |= frozenset(line.split())
        elif line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if header:
                rows.append(dict(zip(header, cells, strict=True)))
            header = header or cells
        elif named := _NAMED.match(line):
            kind, name = named.groups()
            header, rows = [], []
            if kind.startswith("Scenario"):
                outlines.append(_Outline(name, tags))
                steps = outlines[-1].steps
            elif kind == "Examples":
                outlines[-1].examples.append((tags, rows))
            tags = frozenset()
        elif step := _STEP.match(line):
            steps.append(Step(step[1]))
            header, rows = [], steps[-1].table
    return [scenario for outline in outlines for scenario in outline.scenarios(background)]


def _filled(text: str, row: Row) -> str:
    return re.sub(r"<(\w+)>", lambda match: row[match[1]], text)
