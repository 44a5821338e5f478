"""Coverage-guided fuzzing of flag files, JSON and YAML: any file may be refused, but none may crash or hang the reader.

A file without violations is written again, and must be read back to the same flags.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["flagsvc", "yaml"]):
    from flagsvc.adapters.files.parse import parse
    from flagsvc.core.errors import InvalidRequest
    from flagsvc.core.evaluation import prepare
    from flagsvc.core.flagd.reading import read
    from flagsvc.core.flagd.writing import write

from tests.property.rules import Maker
from tests.property.values import KINDS

MAX_BYTES = 4_096


def one(data: bytes) -> None:
    """Fail on any exception, and if a file that was read and written has other flags."""
    name, raw = ("flags.yaml", data[1:]) if data[:1] == b"y" else ("flags.json", data[1:])
    text = parse(name, raw)
    if not text.parsed:
        assert text.problems, "a text that cannot be parsed must have a problem"
        return
    found = read(text.document)
    for place in (*found.violations, *found.notes, *text.problems, *text.notes):
        assert text.lines(place.path) >= 1
    if found.violations or text.problems:
        return
    for flag in found.flags:
        prepare(flag)
    for flag_set in {flag.flag_set for flag in found.flags}:
        flags = [flag for flag in found.flags if flag.flag_set == flag_set]
        try:
            written = write(flags, flag_set)
        except InvalidRequest:
            continue
        again = read(json.loads(json.dumps(written)))
        assert not again.violations, again.violations
        assert {flag.key for flag in again.flags} == {flag.key for flag in flags}


def seeds(folder: Path) -> None:
    """Write the initial corpus of small files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(200):
        [case] = Maker(f"files/{number}").cases(1)
        definition = {"state": case.state, "variants": KINDS[case.kind], "targeting": case.rule}
        document = {"flags": {"a": definition}, "$evaluators": case.evaluators, "metadata": {"flagSetId": "x"}}
        kind = b"y" if number % 2 else b"j"
        (folder / f"generated-{number}").write_bytes(kind + json.dumps(document, indent=number % 3).encode())
    for number, text in enumerate((YAML, "a: &a [1]\nb: [*a, *a]\n", "flags: !!python/object:x {}\n", "? [1]\n: 2\n")):
        (folder / f"written-{number}").write_text("y" + text, encoding="utf-8")


YAML = """\
$schema: https://flagd.dev/schema/v0/flags.json
metadata: {flagSetId: shop, version: 1.5}
flags:
  a:
    state: ENABLED
    variants: {"on": yes, "off": no}
    defaultVariant: "off"
    targeting:
      if: [{"$ref": staff}, "on", null]
$evaluators:
  staff: {ends_with: [{var: email}, "@example.com"]}
"""

if __name__ == "__main__":
    corpus = Path(sys.argv[1])
    if not corpus.is_file():  # A file is a finding to be reproduced.
        seeds(corpus)
    dictionary = Path(__file__).with_name("files.dict")
    atheris.Setup([*sys.argv, f"-dict={dictionary}", f"-max_len={MAX_BYTES}", "-timeout=20", "-rss_limit_mb=1500"], one)
    atheris.Fuzz()
