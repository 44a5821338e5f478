"""Prints single results: as fields for people, as JSON or YAML for programs. Tables are in `tables`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from flagsvc.cli import times
from flagsvc.cli.terminal import Form, coloured, form, is_terminal, styled
from flagsvc.core.documents import json_safe, to_document
from flagsvc.core.json_values import NotJson, strict_loads
from flagsvc.core.model import Flag
from flagsvc.core.shown_text import visible

NEWLINE = "\n"


def print_json(value: object) -> None:
    """Print one JSON value, or with `-o yaml` one YAML document; flushed, so that a reader sees it immediately."""
    if form() is Form.YAML:
        from flagsvc.adapters.files.yaml_text import write_yaml  # noqa: PLC0415  only this form needs it

        print(f"---\n{visible(write_yaml(json_safe(value)), NEWLINE)}", end="", flush=True)
    else:
        print(_json(value), flush=True)


def print_wide(shape: Any) -> None:
    """Print a table or tree of rich; where there is no terminal, at least 200 columns wide."""
    from rich.console import Console  # noqa: PLC0415

    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console.width = max(console.width, 200)
    console.print(shape)


def show(fields: Mapping[str, Any]) -> None:
    """Print one object in the form that was chosen, as its fields if none was."""
    if form() in (Form.JSON, Form.YAML):
        print_json(fields)
    else:
        print_fields(fields)


def print_fields(fields: Mapping[str, Any]) -> None:
    """Print one object as its fields, one a line. A description may have several lines, but not in a pipe."""
    shown = {name: value for name, value in fields.items() if value not in (None, "", {}, ())}
    widest = max(map(len, shown), default=0)
    for name, value in shown.items():
        if not is_terminal():
            print(f"{text(name)}\t{times.iso(value) if isinstance(value, datetime) else text(value)}")
            continue
        line = visible(value, "\n\t") if name == "description" else _field(value)
        indented = line.replace("\n", "\n" + " " * (widest + 2))
        print(f"{styled(text(name).ljust(widest), 'dim')}  {coloured(line, indented)}")
    sys.stdout.flush()


def _field(value: Any) -> str:
    return f"{times.absolute(value)} ({times.relative(value)})" if isinstance(value, datetime) else text(value)


def text(value: Any) -> str:
    """Return the text of a cell: strings with hidden characters escaped, times in short form, all else as JSON.

    A tuple is names, which stand side by side; in JSON it is a list.
    """
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, datetime):
        return times.absolute(value)
    if isinstance(value, tuple):
        return ", ".join(map(text, value))
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
        fields["targeting"] = parsed_rule(flag.targeting)
    if flag.evaluators:
        fields["evaluators"] = {name: parsed_rule(rule) for name, rule in flag.evaluators.items()}
    return fields


def parsed_rule(rule: str) -> Any:
    """Return a rule as JSON; as text where it is none."""
    try:
        return strict_loads(rule)
    except NotJson:
        return rule
