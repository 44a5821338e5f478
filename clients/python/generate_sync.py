"""Generates the synchronous client from the asyncio one; with --check, reports whether the committed file is current.

The two differ in these words alone. What differs in more than words is in `flagsvc_client/transport`.
"""

import re
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parent / "flagsvc_client"
SOURCE, TARGET = CLIENT / "aio.py", CLIENT / "sync.py"
REPLACEMENTS = (
    (r'\A""".*?"""', '"""The client for threads. Generated from aio.py by `make sync-client`; do not edit."""'),
    (r"Feature flags for asyncio", "Feature flags for any number of threads"),
    (
        r"    It can be used in several event loops, one after the other or each in its thread, and be opened again",
        "    It can be opened again",
    ),
    (r"\bAsyncFlagClient\b", "FlagClient"),
    (r"`async with`", "`with`"),
    (r"\basync (def|for|with)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAsyncIterator\b", "Iterator"),
    (r"\baclosing\b", "closing"),
    (r"\b__a(enter|exit)__\b", r"__\1__"),
    (r"\btransport\.aio\b", "transport.sync"),
)


def generate() -> str:
    """Return the source with every replacement made, its imports sorted and its lines wrapped as usual."""
    text = SOURCE.read_text()
    for pattern, replacement in REPLACEMENTS:
        text, count = re.subn(pattern, replacement, text, flags=re.DOTALL)
        if not count:
            sys.exit(f"{SOURCE.name} does not contain {pattern}: change REPLACEMENTS")
    for command in (["check", "--fix-only", "--quiet", "--select=I"], ["format", "--quiet"]):
        ruff = [sys.executable, "-m", "ruff", *command, f"--stdin-filename={TARGET}", "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout
    return text


if __name__ == "__main__":
    if "--check" not in sys.argv:
        TARGET.write_text(generate())
    elif TARGET.read_text() != generate():
        sys.exit(f"{TARGET.name} is not what {SOURCE.name} generates. Run: make sync-client")
