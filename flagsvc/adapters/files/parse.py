"""Parses a file's bytes, as YAML or JSON by the file's name, into a value with line numbers."""

from __future__ import annotations

from flagsvc.adapters.files.json_text import parse_json
from flagsvc.adapters.files.text import FlagText, unreadable
from flagsvc.core.flagd.findings import Finding

MAX_BYTES = 16 * 1024 * 1024
NEWLINE = b"\n"


def parse(name: str, raw: bytes) -> FlagText:
    """Parse a file's bytes, as YAML if its name ends in .yaml or .yml, else as JSON. Never raises."""
    if len(raw) > MAX_BYTES:
        return unreadable(1, f"{len(raw)} bytes; it must be at most {MAX_BYTES}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(NEWLINE, 0, error.start) + 1
        wrong = f"the byte 0x{raw[error.start]:02x} is not UTF-8"
        if is_yaml(name):
            return unreadable(line, f"{wrong}; save the file as UTF-8")
        found = parse_json(raw.decode("utf-8-sig", errors="replace"))
        lines = found.lines
        found.lines = lambda path: lines(path) if path else line
        found.warnings.append(Finding((), f"{wrong}, and is read as U+FFFD; save the file as UTF-8"))
        return found
    if is_yaml(name):
        from flagsvc.adapters.files.yaml_text import parse_yaml  # noqa: PLC0415  imported only for YAML files

        return parse_yaml(text)
    return parse_json(text)


def is_yaml(name: str) -> bool:
    """Whether a file's name ends in .yaml or .yml."""
    return name.lower().endswith((".yaml", ".yml"))
