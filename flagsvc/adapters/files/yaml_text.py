"""Parses YAML text into JSON values, from the parser's events, so that nesting and aliases stay bounded.

Plain scalars mean what JSON and YAML 1.2 define: `on`, `off`, `yes` and `no` are strings. Scalars that YAML 1.1 reads
as types that JSON lacks (dates, hexadecimal numbers) are rejected: they need quotes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from flagsvc.adapters.files.text import MAX_DEPTH, FlagText, unreadable
from flagsvc.core.errors import short_repr
from flagsvc.core.flagd.findings import Finding
from flagsvc.core.json_values import Path
from flagsvc.core.model import JsonValue
from flagsvc.core.shown_text import hidden_at

Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MAX_ALIASED = 200_000
"""Maximum number of parts that the aliases of one file may expand to. Long strings count by their length."""
PART_LENGTH = 20
JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_CONSTANTS = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_TEXT_TAG = "tag:yaml.org,2002:str"
_MAX_NUMBER_CHARS = 400


@dataclass(slots=True)
class _Node:
    """A value of the text with its line, its children and their lines, and its size in parts, aliases expanded."""

    value: JsonValue
    line: int
    children: dict[str | int, _Node] = field(default_factory=dict)
    lines: dict[str | int, int] = field(default_factory=dict)
    size: int = 1


@dataclass(slots=True)
class _Open:
    """A mapping or sequence that is not closed yet. `key` is the current field of a mapping."""

    node: _Node
    anchor: str | None
    key: str | None = None
    key_line: int = 0
    needs_value: bool = False


class _Unreadable(Exception):
    """The text cannot be parsed any further: the reason and the line."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def parse_yaml(text: str) -> FlagText:
    """Parse one YAML document. Never raises: see `FlagText.problems`."""
    reader = _Reader()
    try:
        reader.read(text)
    except _Unreadable as error:
        return unreadable(error.line, str(error), reader.path())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        cause = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be parsed"
        position = getattr(error, "position", None)
        line = mark.line + 1 if mark else text.count("\n", 0, position) + 1 if isinstance(position, int) else 1
        return unreadable(line, f"not YAML: {cause}")
    root = reader.root or _Node(None, 1)
    return FlagText(
        root.value, parsed=True, problems=reader.problems, notes=reader.notes, lines=lambda path: _line(root, path)
    )


def _line(node: _Node, path: Path) -> int:
    line = node.line
    for step in path:
        if step not in node.lines:
            break
        line, node = node.lines[step], node.children[step]
    return line


class _Reader:
    """Builds the document from the events of a text."""

    def __init__(self) -> None:
        self.root: _Node | None = None
        self.problems: list[Finding] = []
        self.notes: list[Finding] = []
        self._open: list[_Open] = []
        self._anchors: dict[str, _Node] = {}
        self._aliased = 0
        self._resolver: Any = yaml.SafeLoader("")

    def path(self) -> Path:
        """Return the first steps of the current path: enough to name a flag and its field."""
        return tuple(self._steps())[:3]

    def read(self, text: str) -> None:
        documents = 0
        for event in yaml.parse(text, Loader=Loader):
            line = event.start_mark.line + 1 if event.start_mark else 1
            match event:
                case yaml.DocumentStartEvent():
                    documents += 1
                    if documents > 1:
                        raise _Unreadable("a second document begins here; a file must have one", line)
                case yaml.ScalarEvent():
                    self._scalar(event, line)
                case yaml.AliasEvent():
                    self._alias(event.anchor or "", line)
                case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                    self._begin(event, line)
                case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                    done = self._open.pop()
                    self._add(done.node, done.anchor)

    def _begin(self, event: Any, line: int) -> None:
        if self._awaits_key():
            raise _Unreadable("a field name is not a string; it must be one", line)
        if len(self._open) >= MAX_DEPTH:
            raise _Unreadable(f"nested more than {MAX_DEPTH} deep", line)
        mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", f"tag:yaml.org,2002:{'map' if mapping else 'seq'}"):
            self._wrong(f"the tag {short_repr(event.tag)} has no meaning in JSON; remove it")
        self._open.append(_Open(_Node({} if mapping else [], line), event.anchor))
        if event.anchor:
            self._anchors.pop(event.anchor, None)

    def _scalar(self, event: Any, line: int) -> None:
        if self._awaits_key():
            self._key(event, line)
            return
        self._add(_Node(self._value(event), line, size=1 + len(event.value) // PART_LENGTH), event.anchor)

    def _key(self, event: Any, line: int) -> None:
        parent = self._open[-1]
        name: str = event.value
        plain = event.implicit[0] and not event.style
        parent.key, parent.key_line, parent.needs_value = name, line, True
        if plain and name == "<<":
            self._wrong("merge keys have no equivalent in JSON; write the fields out")
        elif plain and name in ("", "~"):
            self._wrong("a field without a name; put the name in quotes")
        if name in parent.node.lines:
            self._wrong(f"duplicate field in one object (first on line {parent.node.lines[name]}); keep one")
        if event.anchor:
            self._anchors[event.anchor] = _Node(name, line)

    def _alias(self, anchor: str, line: int) -> None:
        if any(each.anchor == anchor for each in self._open) and anchor not in self._anchors:
            raise _Unreadable(f"the alias *{anchor} is within its own anchor", line)
        node = self._anchors.get(anchor)
        if node is None:
            raise _Unreadable(f"undefined alias *{anchor}; there is no &{anchor} before it", line)
        if self._awaits_key():
            raise _Unreadable("an alias as a field name; write the name", line)
        self._aliased += node.size
        if self._aliased > MAX_ALIASED:
            raise _Unreadable(f"the file's aliases expand to more than {MAX_ALIASED} parts; use fewer", line)
        self._add(_Node(node.value, line, node.children, node.lines, node.size), None)

    def _add(self, node: _Node, anchor: str | None) -> None:
        """Add a value to the current mapping or sequence."""
        if anchor:
            self._anchors[anchor] = node
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        step: str | int
        if isinstance(parent.node.value, dict):
            step, line, parent.needs_value = parent.key or "", parent.key_line, False
            parent.node.value[step] = node.value
        else:
            step, line = len(parent.node.value), node.line
            parent.node.value.append(node.value)
        parent.node.children[step], parent.node.lines[step] = node, line
        parent.node.size += node.size

    def _value(self, event: Any) -> JsonValue:
        text: str = event.value
        if event.tag is not None and event.tag not in ("!", _TEXT_TAG):
            tag = short_repr(event.tag)
            self._wrong(f"the tag {tag} has no meaning in JSON; remove it, or put the value in quotes")
            return text
        if event.tag is not None or not event.implicit[0]:
            return text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if JSON_NUMBER.fullmatch(text):
            return self._number(text)
        yaml_1_1_tag = self._resolver.resolve(yaml.ScalarNode, text, (True, False))
        path = tuple(self._steps())
        if yaml_1_1_tag == "tag:yaml.org,2002:bool":
            if path[-2:-1] in (("variants",), ("metadata",)):
                hint = f"{text} is a string, as in YAML 1.2; write true or false, or put it in quotes"
                self.notes.append(Finding(path, hint))
        elif yaml_1_1_tag != _TEXT_TAG:
            kind = yaml_1_1_tag.rpartition(":")[2]
            self._wrong(f"{short_repr(text)} may be read as a YAML {kind}, which JSON does not have; put it in quotes")
        return text

    def _number(self, text: str) -> JsonValue:
        if len(text) < _MAX_NUMBER_CHARS:
            value = float(text) if set(text) & set(".eE") else int(text)
            if isinstance(value, int) or math.isfinite(value):
                return value
        self._wrong("a number out of range; put it in quotes if it is a string")
        return 0

    def _awaits_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].node.value, dict) and not self._open[-1].needs_value

    def _steps(self) -> Iterator[str | int]:
        for each in self._open:
            if isinstance(each.node.value, list):
                yield len(each.node.value)
            elif each.needs_value and each.key is not None:
                yield each.key

    def _wrong(self, text: str) -> None:
        self.problems.append(Finding(tuple(self._steps()), text))


_Dumper: Any = type("_Dumper", (getattr(yaml, "CSafeDumper", yaml.SafeDumper),), {"ignore_aliases": lambda *_: True})
# Strings that JSON and YAML 1.2 read as numbers but YAML 1.1 does not, such as 1e3, are quoted as well.
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"(?:{JSON_NUMBER.pattern})$"), list("-0123456789"))


def write_yaml(document: JsonValue) -> str:
    """Return a JSON value as YAML that `parse_yaml`, and any other parser of YAML 1.1 or 1.2, reads back unchanged.

    Invisible characters are escaped.
    """
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000)
    if hidden_at(text, "\n") is not None:  # escaped, as all else that is not ASCII is then
        text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=False, width=1_000)
    return text
