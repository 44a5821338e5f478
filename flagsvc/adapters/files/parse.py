"""A file's bytes as a value with the line of each place: JSON, or YAML where the file's name says so."""

from __future__ import annotations

from flagsvc.adapters.files.json_text import parse_json
from flagsvc.adapters.files.text import FlagText, unreadable

MAX_BYTES = 16 * 1024 * 1024
NEWLINE = b"\n"


def parse(name: str, raw: bytes) -> FlagText:
    """Parse a text, as YAML where the file's name says so, else as JSON."""
    if len(raw) > MAX_BYTES:
        return unreadable(1, f"{len(raw)} bytes; it must be at most {MAX_BYTES}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(NEWLINE, 0, error.start) + 1
        return unreadable(line, f"the byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8")
    if is_yaml(name):
        from flagsvc.adapters.files.yaml_text import parse_yaml  # noqa: PLC0415  only YAML needs its parser

        return parse_yaml(text)
    return parse_json(text)


def is_yaml(name: str) -> bool:
    """Whether a file's name says that it is YAML."""
    return name.lower().endswith((".yaml", ".yml"))
