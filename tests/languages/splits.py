"""Splits: 400 people in three flags of questions.json, and the variants that flagd 0.16.1 chose for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VARIANTS: dict[str, str] = json.loads((Path(__file__).parent / "splits.json").read_text())
"""A letter for each person, by the flag's key. The variants have names of one letter."""
PEOPLE = 400
ASCII = 380
"""The people before this one have keys of ASCII."""


def context(number: int) -> dict[str, Any]:
    """The context of a person."""
    name = f"user-{number}" if number < ASCII else f"Zoë-東京-{number}"
    return {"targetingKey": name, "email": f"{name}@flagsvc.example", "country": "CH"}
