"""YAML texts as JSON values: built from the parser's events, so that neither depth nor aliases can blow anything up.

Plain scalars mean what JSON and YAML 1.2 say: `on`, `off`, `yes` and `no` are texts. What YAML would read as
something that JSON does not have (dates, hexadecimal numbers) is refused: it belongs in quotes.
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
from flagsvc.core.flagd.reading import Finding
from flagsvc.core.json_values import Path
from flagsvc.core.model import JsonValue

Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MAX_ALIASED = 200_000
"""Parts that aliases may stand for in one file, long texts counted by their length."""
PART_LENGTH = 20
JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_CONSTANTS = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_TEXT_TAG = "tag:yaml.org,2002:str"
_LONGEST_NUMBER = 400


@dataclass(slots=True)
class _Spot:
    """A value of the text: where it stands, what is in it, and how many parts it is with its aliases."""

    value: JsonValue
    line: int
    children: dict[str | int, _Spot] = field(default_factory=dict)
    lines: dict[str | int, int] = field(default_factory=dict)
    size: int = 1


@dataclass(slots=True)
class _Open:
    """A mapping or sequence whose end is not reached; `key` is a mapping's field that waits for its value."""

    spot: _Spot
    anchor: str | None
    key: str | None = None
    key_line: int = 0
    waits: bool = False


class _Refused(Exception):
    """The text is nothing that can be read on; why, and on which line."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def parse_yaml(text: str) -> FlagText:
    """Parse one YAML document."""
    reading = _Reading()
    try:
        reading.read(text)
    except _Refused as error:
        return unreadable(error.line, str(error), reading.path())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        said = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be parsed"
        position = getattr(error, "position", None)
        line = mark.line + 1 if mark else text.count("\n", 0, position) + 1 if isinstance(position, int) else 1
        return unreadable(line, f"not YAML: {said}")
    root = reading.root or _Spot(None, 1)
    return FlagText(
        root.value,
        parsed=True,
        problems=reading.problems,
        notes=reading.notes,
        lines=lambda path: _line(root, path),
    )


def _line(spot: _Spot, path: Path) -> int:
    line = spot.line
    for step in path:
        if step not in spot.lines:
            break
        line, spot = spot.lines[step], spot.children[step]
    return line


class _Reading:
    """One pass over the events of a text."""

    def __init__(self) -> None:
        self.root: _Spot | None = None
        self.problems: list[Finding] = []
        self.notes: list[Finding] = []
        self._open: list[_Open] = []
        self._anchors: dict[str, _Spot] = {}
        self._aliased = 0
        self._resolver: Any = yaml.SafeLoader("")

    def path(self) -> Path:
        """Give the first steps to where the reading stands: enough to name a flag and its field."""
        return tuple(self._steps())[:3]

    def read(self, text: str) -> None:
        documents = 0
        for event in yaml.parse(text, Loader=Loader):
            line = event.start_mark.line + 1 if event.start_mark else 1
            match event:
                case yaml.DocumentStartEvent():
                    documents += 1
                    if documents > 1:
                        raise _Refused("a second document begins here; a file must have one", line)
                case yaml.ScalarEvent():
                    self._scalar(event, line)
                case yaml.AliasEvent():
                    self._alias(event.anchor or "", line)
                case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                    self._begin(event, line)
                case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                    self._end()

    def _begin(self, event: Any, line: int) -> None:
        if self._awaits_key():
            raise _Refused("a field's name that is no text; it must be one", line)
        if len(self._open) >= MAX_DEPTH:
            raise _Refused(f"nested more than {MAX_DEPTH} deep", line)
        mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", f"tag:yaml.org,2002:{'map' if mapping else 'seq'}"):
            self._wrong(f"the tag {short_repr(event.tag)} means nothing in JSON; leave it out")
        self._open.append(_Open(_Spot({} if mapping else [], line), event.anchor))
        if event.anchor:
            self._anchors.pop(event.anchor, None)

    def _end(self) -> None:
        done = self._open.pop()
        self._add(done.spot, done.anchor)

    def _scalar(self, event: Any, line: int) -> None:
        if self._awaits_key():
            self._key(event, line)
            return
        self._add(_Spot(self._value(event), line, size=1 + len(event.value) // PART_LENGTH), event.anchor)

    def _key(self, event: Any, line: int) -> None:
        inside = self._open[-1]
        name: str = event.value
        plain = event.implicit[0] and not event.style
        inside.key, inside.key_line, inside.waits = name, line, True
        if plain and name == "<<":
            self._wrong("merge keys are nothing that JSON has; write the fields out")
        elif plain and name in ("", "~"):
            self._wrong("a field without a name; put it in quotes")
        if name in inside.spot.lines:
            self._wrong(f"this field stands twice in one object (first on line {inside.spot.lines[name]}); keep one")
        if event.anchor:
            self._anchors[event.anchor] = _Spot(name, line)

    def _alias(self, anchor: str, line: int) -> None:
        if any(each.anchor == anchor for each in self._open) and anchor not in self._anchors:
            raise _Refused(f"the alias *{anchor} stands within what it means", line)
        spot = self._anchors.get(anchor)
        if spot is None:
            raise _Refused(f"the alias *{anchor} means nothing; there is no &{anchor} before it", line)
        if self._awaits_key():
            raise _Refused("an alias as a field's name; write the name", line)
        self._aliased += spot.size
        if self._aliased > MAX_ALIASED:
            raise _Refused(f"the file's aliases stand for more than {MAX_ALIASED} parts; write fewer", line)
        self._add(_Spot(spot.value, line, spot.children, spot.lines, spot.size), None)

    def _add(self, spot: _Spot, anchor: str | None) -> None:
        """Put a value where the reading stands."""
        if anchor:
            self._anchors[anchor] = spot
        if not self._open:
            self.root = spot
            return
        inside = self._open[-1]
        step: str | int
        if isinstance(inside.spot.value, dict):
            step, line, inside.waits = inside.key or "", inside.key_line, False
            inside.spot.value[step] = spot.value
        else:
            step, line = len(inside.spot.value), spot.line
            inside.spot.value.append(spot.value)
        inside.spot.children[step], inside.spot.lines[step] = spot, line
        inside.spot.size += spot.size

    def _value(self, event: Any) -> JsonValue:
        text: str = event.value
        if event.tag is not None and event.tag not in ("!", _TEXT_TAG):
            self._wrong(
                f"the tag {short_repr(event.tag)} means nothing in JSON; leave it out, or put the value in quotes"
            )
            return text
        if event.tag is not None or not event.implicit[0]:
            return text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if JSON_NUMBER.fullmatch(text):
            return self._number(text)
        meant = self._resolver.resolve(yaml.ScalarNode, text, (True, False))
        path = tuple(self._steps())
        if meant == "tag:yaml.org,2002:bool":
            if path[-2:-1] in (("variants",), ("metadata",)):
                hint = f"{text} is a text, as in YAML 1.2; write true or false, or put it in quotes"
                self.notes.append(Finding(path, hint))
        elif meant != _TEXT_TAG:
            kind = meant.rpartition(":")[2]
            self._wrong(f"{short_repr(text)} may be read as a YAML {kind}, which JSON does not have; put it in quotes")
        return text

    def _number(self, text: str) -> JsonValue:
        if len(text) < _LONGEST_NUMBER:
            value = float(text) if set(text) & set(".eE") else int(text)
            if isinstance(value, int) or math.isfinite(value):
                return value
        self._wrong("beyond what a number can hold; put it in quotes if it is a text")
        return 0

    def _awaits_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].spot.value, dict) and not self._open[-1].waits

    def _steps(self) -> Iterator[str | int]:
        for each in self._open:
            if isinstance(each.spot.value, list):
                yield len(each.spot.value)
            elif each.waits and each.key is not None:
                yield each.key

    def _wrong(self, text: str) -> None:
        self.problems.append(Finding(tuple(self._steps()), text))


_Dumper: Any = type("_Dumper", (getattr(yaml, "CSafeDumper", yaml.SafeDumper),), {"ignore_aliases": lambda *_: True})
# Texts that JSON and YAML 1.2 read as numbers but YAML 1.1 does not, such as 1e3, get their quotes too.
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"(?:{JSON_NUMBER.pattern})$"), list("-0123456789"))


def write_yaml(document: JsonValue) -> str:
    """Write a JSON value as YAML that `parse_yaml`, and every other reader of YAML 1.1 or 1.2, reads back as it was."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000)
    return text
