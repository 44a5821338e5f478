"""Mistakes in flag files: each is reported with its path and line, and quickly."""

from __future__ import annotations

import time

import pytest

from flagsvc.adapters.files.checked import checked
from flagsvc.adapters.files.parse import MAX_BYTES

QUICKLY_S = 10.0
"""Enough for ten megabytes on a busy machine. A parser that hangs takes far longer."""


def rule(targeting: str) -> bytes:
    """A file whose rule begins on line 4."""
    head = '{"flags":{\n"f":{"state":"ENABLED","variants":{"a":true,"b":false},\n"defaultVariant":"a",\n"targeting":'
    return f"{head}{targeting}}}}}}}".encode()


def flag(definition: str) -> bytes:
    """A file whose flag stands on line 2."""
    return f'{{"flags":{{\n"f":{definition}}}}}'.encode()


GOOD = '"state":"ENABLED","variants":{"a":1}'
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
BAD: dict[str, tuple[str, bytes, int, str, str]] = {
    "no flags": ("x.json", b"{}", 1, "$.flags", "missing; it must be an object of flags"),
    "flags are a text": ("x.json", b'{\n"flags":"x"}', 2, "$.flags", "a string; it must be an object of flags"),
    "not an object": ("x.json", b"[1]", 1, "$", "a list; it must be an object"),
    "empty": ("x.json", b"", 1, "$", "not JSON: Expecting value"),
    "empty YAML": ("x.yaml", b"", 1, "$", "null; it must be an object"),
    "flag is a number": ("x.json", flag("7"), 2, "$.flags.f", "an integer; a flag must be an object"),
    "no state": ("x.json", flag('{"variants":{"a":1}}'), 2, "$.flags.f.state", "missing, so the flag is enabled; it"),
    "other state": (
        "x.json",
        flag('{"variants":{"a":1},\n"state":"ON"}'),
        3,
        "$.flags.f.state",
        "'ON', so the flag is enabled; it",
    ),
    "no variants": (
        "x.json",
        flag('{"state":"ENABLED"}'),
        2,
        "$.flags.f.variants",
        "missing; it must be an object with",
    ),
    "empty variants": (
        "x.json",
        flag('{"state":"ENABLED",\n"variants":{}}'),
        3,
        "$.flags.f.variants",
        "empty; it must",
    ),
    "list of variants": (
        "x.json",
        flag('{"state":"ENABLED","variants":[1]}'),
        2,
        "$.flags.f.variants",
        "a list; it must",
    ),
    "mixed variants": (
        "x.json",
        flag('{"state":"ENABLED","variants":{"a":1,\n"b":"x"}}'),
        3,
        "$.flags.f.variants.b",
        "'x'; it must be a number like the flag's first variant",
    ),
    "a list as variant": (
        "x.json",
        flag('{"state":"ENABLED","variants":{"a":[]}}'),
        2,
        "$.flags.f.variants.a",
        "[]; it must be a boolean, string, number or object",
    ),
    "default is no variant": (
        "x.json",
        flag("{" + GOOD + ',\n"defaultVariant":"z"}'),
        3,
        "$.flags.f.defaultVariant",
        "'z'; it must be one of the flag's variants: a",
    ),
    "default is a number": (
        "x.json",
        flag("{" + GOOD + ',\n"defaultVariant":7}'),
        3,
        "$.flags.f.defaultVariant",
        "7; it must be the name of a variant, or null",
    ),
    "description": (
        "x.json",
        flag("{" + GOOD + ',\n"description":7}'),
        3,
        "$.flags.f.description",
        "7, which is ignored; it must be a string",
    ),
    "list as targeting": ("x.json", rule("[1]"), 4, "$.flags.f.targeting", "the rule is of type list; it must be"),
    "metadata list": (
        "x.json",
        flag("{" + GOOD + ',"metadata":{\n"m":[]}}'),
        3,
        "$.flags.f.metadata.m",
        "[]; it must be",
    ),
    "metadata of the file": (
        "x.json",
        b'{"metadata":{\n"m":{}},"flags":{}}',
        2,
        "$.metadata.m",
        "{}; it must be a string",
    ),
    "set is a number": (
        "x.json",
        b'{"metadata":{\n"flagSetId":5},"flags":{}}',
        2,
        "$.metadata.flagSetId",
        "5, which names no set",
    ),
    "long key": (
        "x.json",
        f'{{"flags":{{\n"{"k" * 300}":{{{GOOD}}}}}}}'.encode(),
        2,
        f'$.flags["{"k" * 100}..."]',
        "255",
    ),
    "array without key": (
        "x.json",
        b'{"flags":[\n{' + GOOD.encode() + b"}]}",
        2,
        "$.flags[0].key",
        "missing, so the flag is not served",
    ),
    "array with a key twice": (
        "x.json",
        f'{{"flags":[{{"key":"a",{GOOD}}},\n{{"key":"a",{GOOD}}}]}}'.encode(),
        2,
        "$.flags[1]",
        "duplicate flag 'a' in one set; the last one is used",
    ),
    "negative weight": (
        "x.json",
        rule('{"fractional":[["a",1],\n["b",-1]]}'),
        5,
        "$.flags.f.targeting.fractional[1]",
        "it must be an integer of at least 0",
    ),
    "weight is a text": (
        "x.json",
        rule('{"fractional":[["a",1],\n["b","x"]]}'),
        5,
        "$.flags.f.targeting.fractional[1]",
        "it must be an integer of at least 0",
    ),
    "unknown operator": (
        "x.json",
        rule('{"if":[\n{"foo":1},"a"]}'),
        5,
        "$.flags.f.targeting.if[0].foo",
        "unknown operator",
    ),
    "wrong arity": (
        "x.json",
        rule('{"if":[\n{"==":[1]},"a"]}'),
        5,
        '$.flags.f.targeting.if[0]["=="]',
        "it must have 2",
    ),
    "choice is no variant": (
        "x.json",
        rule('{"if":[true,\n"z"]}'),
        5,
        "$.flags.f.targeting.if[1]",
        "not one of the flag's",
    ),
    "unresolved reference": (
        "x.json",
        rule('{"if":[\n{"$ref":"nope"},"a"]}'),
        5,
        '$.flags.f.targeting.if[0]["$ref"]',
        "unknown evaluator 'nope'; known evaluators: none",
    ),
    "circular reference": (
        "x.json",
        b'{"$evaluators":{\n"a":{"$ref":"b"},\n"b":{"!":{"$ref":"a"}}},"flags":{}}',
        3,
        '$["$evaluators"].b["!"]["$ref"]',
        "'a' refers to itself: a -> b -> a",
    ),
    "broken evaluator": (
        "x.json",
        b'{"$evaluators":{\n"a":{"nope":1}},"flags":{"f":{%s,"targeting":{"if":[{"$ref":"a"},"a"]}}}}' % GOOD.encode(),
        2,
        '$["$evaluators"].a.nope',
        "unknown operator 'nope'",
    ),
    "1,000 deep": (
        "x.json",
        rule('{"!":[' * 1_000 + "1" + "]}" * 1_000),
        4,
        "$.flags.f.targeting",
        "more than 200 deep",
    ),
    "150 deep": (
        "x.json",
        rule('{"!":' * 150 + "1" + "}" * 150),
        4,
        "$.flags.f.targeting",
        "nested more than 100 deep",
    ),
    "a million deep": ("x.json", b"[" * 1_000_000, 1, "$[0][0][0]", "nested more than 200 deep"),
    "10 MB text": (
        "x.json",
        rule('{"if":[true,"a","' + "x" * 10_000_000 + '"]}'),
        4,
        "$.flags.f.targeting",
        "at most 262144",
    ),
    "10 MB list": (
        "x.json",
        rule('{"in":[1,[' + "1," * 5_000_000 + "1]]}"),
        4,
        "$.flags.f.targeting",
        "at most 262144",
    ),
    "17 MB": ("x.json", b" " * (MAX_BYTES + 1), 1, "$", f"it must be at most {MAX_BYTES}"),
    "NaN": ("x.json", rule('{"==":[1,\nNaN]}'), 5, '$.flags.f.targeting["=="][1]', "not a JSON number"),
    "too large a number": (
        "x.json",
        rule('{"==":[1,\n1e999]}'),
        5,
        '$.flags.f.targeting["=="][1]',
        "not a JSON number",
    ),
    "thousand digits": (
        "x.json",
        rule('{"==":[1,\n' + "9" * 9_000 + "]}"),
        5,
        '$.flags.f.targeting["=="][1]',
        "not a JSON number",
    ),
    "beyond 64 bit": ("x.json", rule(f'{{"==":[1,\n{2**64}]}}'), 5, '$.flags.f.targeting["=="][1]', "outside -2^63"),
    "field twice": (
        "x.json",
        flag("{" + GOOD + ',\n"state":"DISABLED"}'),
        3,
        "$.flags.f.state",
        "duplicate field in one object",
    ),
    "flag twice": ("x.json", flag("{" + GOOD + '},\n"f":{' + GOOD + "}"), 3, "$.flags.f", "duplicate field"),
    "lone surrogate": (
        "x.json",
        flag('{"state":"ENABLED","variants":{\n"a":"\\ud800"}}'),
        3,
        "$.flags.f.variants.a",
        "surrogate",
    ),
    "not UTF-8": ("x.json", b'{"flags":\n\n{"\xff":{%s}}}' % GOOD.encode(), 3, "$", "the byte 0xff is not UTF-8"),
    "not UTF-8 in YAML": ("x.yaml", b'flags:\n\n  "\xff": 1', 3, "$", "the byte 0xff is not UTF-8"),
    "no flags at all": ("x.yaml", b"metadata: {}\nflags:\n", 2, "$.flags", "null, so there are no flags"),
    "state is a number": ("x.json", flag('{"state":1,"variants":{"a":1}}'), 2, "$.flags.f.state", "1; it must be"),
    "another case": ("x.json", flag('{"State":"ENABLED",\n"VARIANTS":{"a":1}}'), 3, "$.flags.f.VARIANTS", "read as"),
    "metadata is a text": (
        "x.json",
        flag("{" + GOOD + ',"metadata":"m"}'),
        2,
        "$.flags.f.metadata",
        "a string; it must",
    ),
    "source is a number": (
        "x.json",
        flag("{" + GOOD + ',"source":1}'),
        2,
        "$.flags.f.source",
        "1; it must be a string",
    ),
    "default without variants": (
        "x.json",
        flag('{"state":"ENABLED","variants":{},"defaultVariant":"on"}'),
        2,
        "$.flags.f.defaultVariant",
        "it has none",
    ),
    "array with a number as key": ("x.json", b'{"flags":[{"key":1,%s}]}' % GOOD.encode(), 1, "$.flags[0].key", "1; it"),
    "empty evaluator": ("x.json", b'{"$evaluators":{\n"e":{}},"flags":{}}', 2, '$["$evaluators"].e', "{}; it must be"),
    "flag is null": ("x.json", flag("null"), 2, "$.flags.f", "null; a flag must be an object"),
    "null as variant": (
        "x.json",
        flag('{"state":"ENABLED","variants":{"a":1,\n"b":null}}'),
        3,
        "$.flags.f.variants.b",
        "None; it must be a boolean",
    ),
    "large integer": (
        "x.json",
        flag('{"state":"ENABLED","variants":{\n"a":18446744073709551616}}'),
        3,
        "$.flags.f.variants.a",
        "a float",
    ),
    "text as targeting": ("x.json", rule('"a"'), 4, "$.flags.f.targeting", "the rule is of type string; it must be"),
    "trailing comma": ("x.json", b'{"flags":{\n"f":{},}}', 2, "$", "not JSON: "),
    "second document": ("x.json", b"{}\n{}", 2, "$", "not JSON: Extra data"),
    "alias bomb": ("x.yaml", BOMB.encode(), 6, "$.f[1]", "expand to more than 200000 parts"),
    "long alias bomb": (
        "x.yaml",
        ("a: &a " + "x" * 1_000_000 + "\nb: [" + "*a,\n" * 10 + "]\n").encode(),
        5,
        "$.b[3]",
        "expand to more than 200000 parts",
    ),
    "alias in itself": ("x.yaml", b"flags: &a\n  x: *a\n", 2, "$.flags.x", "the alias *a is within its own anchor"),
    "undefined alias": ("x.yaml", b"flags:\n  x: *a\n", 2, "$.flags.x", "there is no &a before it"),
    "deep YAML": ("x.yaml", b"flags:\n  " + b"[" * 300, 2, "$.flags[0][0]", "nested more than 200 deep"),
    "very deep YAML": ("x.yaml", b"flags:\n  " + b"[" * 1_000_000, 2, "$.flags[0][0]", "nested more than 200 deep"),
    "field twice in YAML": (
        "x.yaml",
        b"flags: {}\nmetadata: {}\nflags: {}\n",
        3,
        "$.flags",
        "duplicate field in one object",
    ),
    "date": (
        "x.yaml",
        b"flags: {}\nmetadata:\n  m: 2026-01-01\n",
        3,
        "$.metadata.m",
        "timestamp, which JSON does not have",
    ),
    "hexadecimal": ("x.yaml", b"flags: {}\nmetadata:\n  m: 0x1F\n", 3, "$.metadata.m", "put it in quotes"),
    "octal": ("x.yaml", b"flags: {}\nmetadata:\n  m: 010\n", 3, "$.metadata.m", "put it in quotes"),
    "infinity": ("x.yaml", b"flags: {}\nmetadata:\n  m: .inf\n", 3, "$.metadata.m", "put it in quotes"),
    "minutes": ("x.yaml", b"flags: {}\nmetadata:\n  m: 10:20\n", 3, "$.metadata.m", "put it in quotes"),
    "huge YAML number": (
        "x.yaml",
        b"flags: {}\nmetadata:\n  m: 1e999\n",
        3,
        "$.metadata.m",
        "a number out of range",
    ),
    "Python object": ("x.yaml", b"flags: !!python/object:os.system x\n", 1, "$.flags", "has no meaning in JSON"),
    "tagged mapping": ("x.yaml", b"flags: !mine {}\n", 1, "$.flags", "the tag '!mine' has no meaning in JSON"),
    "merge key": ("x.yaml", b"flags: {}\nmetadata:\n  <<: {a: 1}\n", 3, '$.metadata["<<"]', "merge keys"),
    "list as key": ("x.yaml", b"flags:\n  ? [a]\n  : 1\n", 2, "$.flags", "a field name is not a string"),
    "alias as key": ("x.yaml", b"flags: &a x\nb:\n  *a : 1\n", 3, "$.b", "an alias as a field name"),
    "two documents": ("x.yaml", b"flags: {}\n---\nflags: {}\n", 2, "$", "a second document begins here"),
    "broken YAML": ("x.yaml", b"flags:\n  a: [\n  b: }", 3, "$", "not YAML: "),
    "control character": ("x.yaml", b"flags:\n  a: \x01", 2, "$", "not YAML: control characters"),
    "tabs": ("x.yaml", b"flags:\n\ta: 1", 2, "$", "not YAML: "),
}
ODD = {
    *("no state", "other state", "no variants", "empty variants", "mixed variants", "a list as variant", "description"),
    *("list as targeting", "metadata list", "metadata of the file", "set is a number", "array without key"),
    *("array with a key twice", "negative weight", "weight is a text", "unknown operator", "wrong arity"),
    *("choice is no variant", "unresolved reference", "circular reference", "broken evaluator", "150 deep"),
    *("beyond 64 bit", "field twice", "flag twice", "lone surrogate", "not UTF-8", "no flags at all", "another case"),
    *("flag is null", "null as variant", "large integer", "text as targeting"),
}
"""What flagd loads and serves: a warning. It refuses all else, or no store can take it."""


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_reported_with_line_and_path(case: str) -> None:
    name, raw, line, path, text = BAD[case]
    began = time.thread_time()
    found = checked(name, raw)
    took = time.thread_time() - began
    findings = found.warnings if case in ODD else found.violations
    matching = [each for each in findings if each.path.startswith(path) and text in each.text]
    assert matching, [str(each)[:300] for each in findings]
    assert matching[0].line == line
    assert took < QUICKLY_S
    assert all(len(str(each)) < 1_000 for each in findings)
    assert (found.violations == []) is (case in ODD)
    without = ("array without key", "circular reference", "metadata of the file", "set is a number", "no flags at all")
    assert case not in ODD or len(found.flags) == (case not in without)


def test_a_byte_order_mark_and_windows_lines_are_no_problem() -> None:
    raw = b"\xef\xbb\xbf" + flag('{"state":"ON",\r\n"variants":{"a":1}}')
    for name in ("x.json", "x.yaml"):
        [found] = checked(name, raw).warnings
        assert (found.line, found.path) == (2, "$.flags.f.state")
