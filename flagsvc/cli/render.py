"""Prints results: as tables for people, as JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from flagsvc.core.documents import json_safe, to_document
from flagsvc.core.json_values import NotJson, strict_loads
from flagsvc.core.model import Flag
from flagsvc.core.shown_text import visible


def print_json(value: object) -> None:
    """Print one JSON value and flush, so that a program that reads the stream sees it immediately."""
    print(_json(value), flush=True)


def say(line: str, *, error: bool = False) -> None:
    """Print a line of text for people; a hidden character in it is escaped."""
    print(visible(line, "\n"), file=sys.stderr if error else sys.stdout, flush=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: str) -> None:
    """Print rows under headings, or the text `empty` if there are none."""
    shown = [[text(cell) for cell in row] for row in rows]
    if not shown:
        say(empty)
        return
    from rich.table import Table  # noqa: PLC0415  slow to import, and not needed for --help
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in shown:
        table.add_row(*map(Text, row))
    print_wide(table)


def print_wide(shape: Any) -> None:
    """Print a table or tree of rich; where there is no terminal, at least 200 columns wide."""
    from rich.console import Console  # noqa: PLC0415

    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console.width = max(console.width, 200)
    console.print(shape)


def print_fields(fields: Mapping[str, Any]) -> None:
    """Print one object as a table of its fields. A description may have several lines."""
    rows = [
        (k, _Shown(visible(v, "\n\t")) if k == "description" else v)
        for k, v in fields.items()
        if v not in (None, "", {})
    ]
    print_table(("field", "value"), rows, "no fields")


class _Shown(str):
    """A text whose hidden characters are escaped already."""

    __slots__ = ()


def text(value: Any) -> str:
    """Return the text of a cell: strings with hidden characters escaped, times in short form, all else as JSON."""
    if isinstance(value, str):
        return value if isinstance(value, _Shown) else visible(value)
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%SZ")
    if value is None:
        return "-"
    return _json(value)


def _json(value: object) -> str:
    """Return JSON in which every hidden character is escaped, which changes nothing of its meaning."""
    return visible(json.dumps(json_safe(value), ensure_ascii=False))


def flag_fields(flag: Flag) -> dict[str, Any]:
    """Return a flag's fields under their stored names, with set, revision and etag; rules as parsed JSON."""
    fields = {"flagSet": flag.flag_set, **to_document(flag), "revision": flag.revision, "etag": flag.etag}
    if flag.targeting is not None:
        fields["targeting"] = _parsed_rule(flag.targeting)
    if flag.evaluators:
        fields["evaluators"] = {name: _parsed_rule(rule) for name, rule in flag.evaluators.items()}
    return fields


def _parsed_rule(rule: str) -> Any:
    try:
        return strict_loads(rule)
    except NotJson:
        return rule
