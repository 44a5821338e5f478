"""Shows how an evaluation reached its result: as a tree for people, as JSON for programs."""

from __future__ import annotations

from typing import Any

from flagsvc.api.common.values import from_value
from flagsvc.cli.render import print_wide, text
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb


def explanation_fields(explanation: pb.Explanation) -> dict[str, Any]:
    """Return the explanation as JSON, with its steps nested in the order of evaluation."""
    root: list[dict[str, Any]] = []
    above: list[list[dict[str, Any]]] = [root]
    for step in explanation.steps:
        shown = {
            "path": step.path,
            "operator": step.operator,
            "result": from_value(step.result, "result"),
            **({"note": step.note} if step.note else {}),
            "steps": [],
        }
        del above[step.depth + 1 :]
        above[-1].append(shown)
        above.append(shown["steps"])
    read = {name: from_value(value, name) for name, value in sorted(explanation.context_read.items())}
    notes = {"notes": list(explanation.notes)} if explanation.notes else {}
    return {"summary": explanation.summary, **notes, "contextRead": read, "steps": root}


def print_explanation(title: str, explanation: pb.Explanation) -> None:
    """Print the summary, the context fields that were read, and the steps as a tree."""
    from rich.text import Text  # noqa: PLC0415  slow to import, and only used here
    from rich.tree import Tree  # noqa: PLC0415

    fields = explanation_fields(explanation)
    tree = Tree(Text(text(title)))
    tree.add(Text(text(fields["summary"])))
    for note in fields.get("notes", []):
        tree.add(Text(text(f"note: {note}")))
    if fields["contextRead"]:
        read = tree.add(Text("context fields read"))
        for name, value in fields["contextRead"].items():
            read.add(Text(f"{text(name)} = {_value(value)}" if value is not None else f"{text(name)} is missing"))
    if fields["steps"]:
        _add_steps(tree.add(Text("rule")), fields["steps"], Text)
    print_wide(tree)


def _add_steps(branch: Any, steps: list[dict[str, Any]], styled: Any) -> None:
    for step in steps:
        _add_steps(branch.add(styled(_label(step))), step["steps"], styled)


def _label(step: dict[str, Any]) -> str:
    operator, note, result = text(step["operator"]), text(step.get("note", "")), _value(step["result"])
    if operator == "var":
        return f"var {note}: {result}   {text(step['path'])}"
    return f"{operator}: {result}{f'   ({note})' if note else ''}   {text(step['path'])}"


def _value(value: Any) -> str:
    shown = f'"{text(value)}"' if isinstance(value, str) else "null" if value is None else text(value)
    limit = 100
    return shown if len(shown) <= limit else f"{shown[:limit]}..."
