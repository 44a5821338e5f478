"""Parses a file's bytes, as YAML or JSON by the file's name, into a value with line numbers."""

from __future__ import annotations

from flagsvc.adapters.files.json_text import parse_json
from flagsvc.adapters.files.text import FlagText, unreadable

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
        return unreadable(line, f"the byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8")
    if is_yaml(name):
        from flagsvc.adapters.files.yaml_text import parse_yaml  # noqa: PLC0415  imported only for YAML files

        return parse_yaml(text)
    return parse_json(text)


def is_yaml(name: str) -> bool:
    """Whether a file's name ends in .yaml or .yml."""
    return name.lower().endswith((".yaml", ".yml"))
