"""Tables that fit: on a terminal columns are left out by rank and never a key is cut; in a pipe a row is one line.

In a pipe every column is there, separated by tabs and not padded, under one line of headings.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from rich.cells import cell_len, set_cell_size

from flagsvc.cli import times
from flagsvc.cli.render import print_json, text
from flagsvc.cli.terminal import Form, coloured, form, is_terminal, say, styled, width

_GAP = "  "


@dataclass(frozen=True, slots=True)
class Column:
    """A column. `rank`: the greatest is left out first where the terminal is narrow; 0 is always shown.

    `least`: characters to which a cell may be cut; 0: it is never cut, as keys are not, so that they can be copied.
    `name`: the field in JSON, if it is not the title.
    """

    title: str
    rank: int = 0
    least: int = 0
    name: str = ""


class _Cell(NamedTuple):
    full: str
    short: str


class Layout(NamedTuple):
    """The lines of a table, the headings first, each cell padded; and the titles of the columns that are left out."""

    lines: list[list[str]]
    left_out: list[str]


def print_list(columns: Sequence[Column], objects: Sequence[Mapping[str, Any]], empty: str) -> None:
    """Print objects in the form that was chosen: as JSON with every field, else as a table of the columns' fields."""
    if form() in (Form.JSON, Form.YAML):
        print_json(objects)
    else:
        print_table(columns, ([each.get(column.name or column.title) for column in columns] for each in objects), empty)


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[Any]], empty: str) -> None:
    """Print rows under headings, or the text `empty` if there are none; with `-o name` the first column alone."""
    found = list(rows)
    if form() is Form.NAME:
        for row in found:
            say(text(row[0]))
    elif not found:
        say(empty, error=not is_terminal())
    elif not is_terminal():
        for line in ([column.title for column in columns], *found):
            sys.stdout.write("\t".join(_plain(cell) for cell in line) + "\n")
        sys.stdout.flush()
    else:
        _print_layout(laid_out(columns, found, sys.maxsize if form() is Form.WIDE else width()))


def laid_out(columns: Sequence[Column], rows: Sequence[Sequence[Any]], available: int) -> Layout:
    """Return a table of at most `available` characters a line, if its columns of rank 0 are not wider than that.

    Times become short first, then texts are cut, then columns are left out.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    shown = list(range(len(columns)))
    left_out: list[int] = []
    while True:
        for is_short in (False, True):
            texts = [[(row[i].short if is_short else row[i].full) for i in shown] for row in cells]
            natural = [
                max(cell_len(columns[i].title), *(cell_len(line[at]) for line in texts)) for at, i in enumerate(shown)
            ]
            least = [
                max(cell_len(columns[i].title), min(full, columns[i].least or full))
                for i, full in zip(shown, natural, strict=True)
            ]
            widths = _cut(natural, least if is_short else natural, available)
            if widths is not None:
                break
        else:
            droppable = [i for i in shown if columns[i].rank]
            if droppable:
                gone = max(droppable, key=lambda i: (columns[i].rank, i))
                shown.remove(gone)
                left_out.append(gone)
                continue
            widths = natural
        titles = [columns[i].title for i in shown]
        lines = [[_fitted(cell, size) for cell, size in zip(line, widths, strict=True)] for line in (titles, *texts)]
        return Layout(lines, [columns[i].title for i in sorted(left_out)])


def _cut(natural: Sequence[int], least: Sequence[int], available: int) -> list[int] | None:
    """Return widths that fit, the widest columns cut first; None if not even the least widths fit."""
    over = sum(natural) + len(_GAP) * (len(natural) - 1) - available
    widths = list(natural)
    while over > 0:
        at = max(range(len(widths)), key=lambda i: (widths[i] > least[i], widths[i]))
        if widths[at] <= least[at]:
            return None
        widths[at] -= 1
        over -= 1
    return widths


def _print_layout(table: Layout) -> None:
    titles, *rows = table.lines
    print(styled(_GAP.join(titles).rstrip(), "bold"))
    for row in rows:
        print(_GAP.join(coloured(cell.strip(), cell) for cell in row).rstrip())
    if table.left_out:
        hint = f"not shown in {width()} columns: {', '.join(table.left_out)} (all: -o wide)"
        if len(hint) > width():
            hint = f"{len(table.left_out)} more columns: -o wide"
        print(styled(hint, "dim", stream=sys.stderr), file=sys.stderr)
    sys.stdout.flush()


def _fitted(shown: str, size: int) -> str:
    return set_cell_size(shown if cell_len(shown) <= size else set_cell_size(shown, size - 1) + "…", size)


def _cell(value: Any) -> _Cell:
    if isinstance(value, datetime):
        return _Cell(f"{times.absolute(value)} ({times.relative(value)})", times.relative(value))
    return _Cell(text(value), text(value))


def _plain(value: Any) -> str:
    return times.iso(value) if isinstance(value, datetime) else text(value)
