"""Errors of commands: one line for people, one JSON object for programs, both on standard error."""

from __future__ import annotations

import json
import sys
from typing import Any

from flagsvc.cli.exit_codes import FAILED
from flagsvc.cli.terminal import Form, form, is_terminal, styled, wrapped
from flagsvc.core.shown_text import visible

NEWLINE = "\n"  # an error may have several lines


def print_error(text: str, *, code: str, exit_code: int = FAILED, **details: Any) -> None:
    """Print an error. `code`: its reason as a word, such as FLAG_NOT_FOUND; `details`: what else programs may need."""
    if form() in (Form.JSON, Form.YAML):
        error = {"code": code, "message": text, "exitCode": exit_code, **details}
        print(visible(json.dumps({"error": error}, ensure_ascii=False)), file=sys.stderr, flush=True)
    else:
        shown = f"error: {visible(text, NEWLINE)}"
        if is_terminal(sys.stderr):
            shown = wrapped(shown).replace("error:", styled("error:", "red", stream=sys.stderr), 1)
        print(shown, file=sys.stderr, flush=True)
