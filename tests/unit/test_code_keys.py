"""Keys of flags in Python code, found by its syntax; and `flagsvc check` on a file of flags."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flagsvc.cli.code_keys import uses_in
from flagsvc.cli.main import main

HEAD = "from flagsvc_client import AsyncFlagClient, FlagClient\nflags = FlagClient('a:1')\n"


def keys_in(folder: Path, code: str, **others: str) -> list[str | None]:
    (folder / "shop.py").write_text(code)
    for name, text in others.items():
        (folder / f"{name}.py").write_text(text)
    uses, unreadable = uses_in([folder])
    assert unreadable == []
    return [use.key for use in uses if use.path.endswith("shop.py")]


@pytest.mark.parametrize(
    ("code", "keys"),
    [
        ("app.flags.is_enabled('a', {'b': 1})", ["a"]),
        ("x.get_bool('a', default=True); x.get_str(key='b', default='')", ["a", "b"]),
        ("x.get_object('a' if new else 'b', default={})", ["a", "b"]),
        ("client.get_boolean_value('a', False); await_(client.get_object_details_async(flag_key='b'))", ["a", "b"]),
        ("@require_feature('a', client=flags)\ndef f(): pass", ["a"]),
        (
            "app.get('/x', dependencies=[Depends(RequireFeature(flags, 'a'))]); RequireFeature(flags, flag='b')",
            ["a", "b"],
        ),
        ("FlagGuard(flags, {'/s/*': 'a', '/s/M': Rule('b', on_trouble='open'), '/s/N': None})", ["a", "b"]),
        ("call_guards(flags, rules={'/s/*': 'a'})", ["a"]),
        ("with override('a', True), override({'b': 1, 'c': 2}): pass", ["a", "b", "c"]),
        (
            HEAD + "flags.details('a', default=1); flags.batch(['b', 'c']); flags.toggle('d', True)",
            ["a", "b", "c", "d"],
        ),
        (HEAD + "flags.set('a', status='BETA'); other.set('b', 1); cache.delete('c')", ["a"]),
        ("def f(shop: AsyncFlagClient):\n    shop.details('a', default=1)", ["a"]),
        ("async with AsyncFlagClient('a:1') as shop:\n    shop.delete('a')".replace("async ", ""), ["a"]),
        ("self.flags: 'FlagClient' = make()\nself.flags.history('a')", ["a"]),
        ("FLAG = 'a'\nx.is_enabled(FLAG)", ["a"]),
        ("class Flags(StrEnum):\n    NEW = 'a'\nx.is_enabled(Flags.NEW); x.is_enabled(Flags.NEW.value)", ["a", "a"]),
        ("x.is_enabled(f'a-{name}'); x.is_enabled(key); x.is_enabled(settings.flag)", [None, None, None]),
        ("print('is_enabled'); is_enabled('a'); x.get('a'); config.get_int(3)", []),
    ],
)
def test_what_a_key_is(tmp_path: Path, code: str, keys: list[str | None]) -> None:
    assert keys_in(tmp_path, code) == keys


def test_constants_of_other_modules(tmp_path: Path) -> None:
    code = "from app.names import NEW, Flags\nfrom app import names\nx.is_enabled(NEW); x.is_enabled(Flags.OLD)"
    code += "; x.is_enabled(names.NEW); x.is_enabled(names.LATER)"
    found = keys_in(tmp_path, code, names="NEW = 'a'\nclass Flags:\n    OLD: str = 'b'\nLATER = make()")
    assert found == ["a", "b", "a", None]


def test_places_skipped_folders_and_files_that_are_no_python(tmp_path: Path) -> None:
    for folder in (".venv", "node_modules", "app"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "shop.py").write_text("\n\nx.is_enabled(\n  'a')\n")
    (tmp_path / "broken.py").write_text("x =\n")
    uses, unreadable = uses_in([tmp_path])
    assert [(use.path, use.line) for use in uses] == [(str(tmp_path / "app" / "shop.py"), 4)]
    assert [(each.path, each.line, each.why) for each in unreadable] == [
        (str(tmp_path / "broken.py"), 1, "invalid syntax")
    ]


@pytest.fixture
def flags(tmp_path: Path) -> str:
    definition = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "on"}
    (tmp_path / "flags.json").write_text(json.dumps({"flags": {"checkout-v2": definition}}))
    return str(tmp_path / "flags.json")


def test_the_command_names_place_and_key(tmp_path: Path, flags: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = tmp_path / "shop.py"
    code.write_text("x.is_enabled('checkout-v2')\nx.is_enabled('checkout-v3')\nx.is_enabled(a)\nx.is_enabled('zzz')\n")
    assert main(["check", str(code), "--flags", flags]) == 1
    out, summary = capsys.readouterr()
    assert out.splitlines() == [
        f'{code}:2: unknown flag "checkout-v3"; did you mean "checkout-v2"?',
        f'{code}:4: unknown flag "zzz"',
    ]
    assert summary.splitlines() == ["3 uses of 3 keys; 2 unknown", f"computed, so not checked: {code}:3"]
    assert main(["check", str(code), "--flags", flags, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["problems"][0] == {
        "file": str(code),
        "line": 2,
        "problem": 'unknown flag "checkout-v3"; did you mean "checkout-v2"?',
        "flagKey": "checkout-v3",
        "didYouMean": "checkout-v2",
    }
    assert (found["keys"], found["computed"]) == (
        ["checkout-v2", "checkout-v3", "zzz"],
        [{"file": str(code), "line": 3}],
    )
    code.write_text("x.is_enabled('checkout-v2')\n")
    assert main(["check", str(code), "--flags", flags]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["."], "the flags cannot be listed at 127.0.0.1:1: "),
        ([".", "--flags", "none.json"], "--flags none.json: FileNotFoundError"),
    ],
)
def test_nothing_is_said_without_flags_or_code(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["check", *arguments, "--address", "127.0.0.1:1"]) == 2
    assert words in capsys.readouterr().err
