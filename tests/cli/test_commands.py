"""Commands on a real server: what they take, what they ask, and what they say about a slip."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from flagsvc.cli import edit
from tests.command_line import Done, Terminal, run_here

pytestmark = pytest.mark.xdist_group("cli commands")


def run(address: str, *arguments: str) -> Done:
    return run_here(*arguments, FLAGSVC_ADDRESS=address, USER="ann")


def output(address: str, *arguments: str) -> str:
    done = run(address, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def on_terminal(address: str, *arguments: str, keys: str = "", columns: int = 80) -> tuple[int, str]:
    terminal = Terminal(columns, keys=keys)
    status = terminal.run(*arguments, FLAGSVC_ADDRESS=address, USER="ann")
    return status, terminal.text


def stored(address: str, key: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(output(address, "get", key, "--json"))
    return found


@pytest.mark.parametrize(
    ("word", "status"),
    [
        *(("on", "ENABLED"), ("OFF", "DISABLED"), ("True", "ENABLED"), ("false", "DISABLED")),
        *(("Enable", "ENABLED"), ("disable", "DISABLED"), ("ENABLED", "ENABLED"), ("Disabled", "DISABLED")),
    ],
)
def test_toggle_takes_every_word_for_a_state(address: str, word: str, status: str) -> None:
    run(address, "create", "words")
    before = stored(address, "words")["status"]
    said = output(address, "toggle", "words", word)
    assert re.fullmatch(rf"words: {before} -> {status} \(revision \d+, on 1 replica, \d+ ms\)\n", said)


def test_toggle_says_what_the_flag_was_as_json_too(address: str) -> None:
    output(address, "create", "was", "status=BETA")
    assert json.loads(output(address, "toggle", "was", "on", "--json"))["previousStatus"] == "BETA"


def test_parts_of_a_field_are_set_and_removed(address: str, tmp_path: Path) -> None:
    output(address, "create", "parts", 'variants={"a": 1, "b": 2}', "defaultVariant=a", 'config={"max": 1}')
    output(address, "set", "parts", "variants.c=3", "variants.b=", "config.max=7", "metadata.team=payments")
    found = stored(address, "parts")
    assert (found["variants"], found["config"], found["metadata"]) == (
        {"a": 1, "c": 3},
        {"max": 7},
        {"team": "payments"},
    )
    rule = tmp_path / "rule.json"
    rule.write_text('{"if": [{"==": [{"var": "plan"}, "pro"]}, "c", "a"]}\n')
    output(address, "set", "parts", f"targeting=@{rule}")
    assert stored(address, "parts")["targeting"] == {"if": [{"==": [{"var": "plan"}, "pro"]}, "c", "a"]}


def test_a_dry_run_checks_shows_and_writes_nothing(address: str) -> None:
    output(address, "create", "dry", "owner=a")
    before = stored(address, "dry")
    rule = 'targeting={"fractional": [["on", 1], ["off", 99]]}'
    done = run(address, "set", "dry", "owner=b", "status=ENABLED", rule, "--dry-run")
    assert done.stdout.splitlines() == [
        "~ dry",
        "    status: DISABLED -> ENABLED",
        "    owner: a -> b",
        '    targeting: - -> {"fractional": [["on", 1], ["off", 99]]}',
        "valid; nothing was written (--dry-run)",
    ]
    assert done.stderr.startswith("note: "), "a split without a targeting key gives everybody `on`"
    assert stored(address, "dry") == before
    wrong = run(address, "set", "dry", "defaultVariant=nope", "--dry-run", "--json")
    assert (wrong.returncode, json.loads(wrong.stderr)["error"]["code"]) == (1, "INVALID_FLAG")
    assert run(address, "create", "dry-new", "--dry-run").stdout.startswith("+ dry-new\n")
    assert run(address, "get", "dry-new").returncode == 1


def test_attributes_are_texts_unless_they_are_marked_as_json(address: str) -> None:
    output(
        address, "create", "typed", "status=ENABLED", 'targeting={"if": [{"===": [{"var": "v"}, "1.10"]}, "on", "off"]}'
    )
    asked = ("evaluate", "typed", "--json", "--attribute")
    assert json.loads(output(address, *asked, "v=1.10"))["value"] is True
    assert json.loads(output(address, *asked, "v:=1.10"))["value"] is False
    assert json.loads(output(address, *asked, 'v:="1.10"'))["value"] is True
    for wrong in ("v:=1.1.0", "v:={"):
        assert "v is not valid JSON" in run(address, *asked, wrong).stderr
    twice = run(address, "evaluate", "typed", "--context", '{"a": 1, "a": 2}')
    assert (twice.returncode, "a" in twice.stderr) == (2, True)
    nobody = run(address, "evaluate", "typed", "--context", '{"targetingKey": null}')
    assert "targetingKey in --context is NoneType; it must be a text" in nobody.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (("togle", "near-key", "on"), 2, "unknown command 'togle'; did you mean toggle?"),
        (("get", "nearkey"), 1, "did you mean near-key? (FLAG_NOT_FOUND)"),
        (("diff", "nearkey"), 1, "did you mean near-key? (FLAG_NOT_FOUND)"),
        (("set", "near-key", "stauts=ENABLED"), 2, "unknown field 'stauts'; did you mean status?"),
        (
            ("set", "near-key", "status=ON"),
            2,
            "it must be ENABLED, DISABLED, BETA or DEPRECATED; did you mean ENABLED?",
        ),
        (("set", "near-key", "status=enabld"), 2, "did you mean ENABLED?"),
        (("set", "near-key", 'variants=["a"]'), 2, 'it must be an object such as {"on": true, "off": false}'),
        (("set", "near-key", "owner.a=b"), 2, "only variants, metadata, evaluators, config have parts"),
        (("list", "--flagset", "x"), 2, "did you mean --flag-set?"),
        (("simulate", "near-key", "--contxts", "x"), 2, "did you mean --contexts?"),
        (("simulate", "near-key", "--cont"), 2, "argument --contexts: expected one argument"),
        (("simulate", "near-key", "--limit", "2"), 2, "required: --contexts"),
        (("history", "--outcome", "don"), 2, "did you mean done?"),
        (("set", "near-key", "targeting=@/no/such/file"), 1, "/no/such/file: cannot be read"),
    ],
)
def test_what_was_most_likely_meant(address: str, arguments: tuple[str, ...], status: int, expected: str) -> None:
    run(address, "create", "near-key")
    done = run(address, *arguments)
    assert (done.returncode, expected in done.stderr) == (status, True), done.stderr


def test_what_was_most_likely_meant_by_a_key_where_its_absence_is_an_answer(address: str) -> None:
    run(address, "create", "near-key")
    assert "in this flag set; did you mean near-key?" in run(address, "evaluate", "nearkey").stdout
    assert "did you mean" not in run(address, "evaluate", "nearkey", "--json").stdout
    assert run(address, "history", "nearkey").stderr == "no history for 'nearkey'; did you mean near-key?\n"


def test_fields_may_stand_behind_options(address: str) -> None:
    output(address, "create", "order", "--reason", "because", "owner=a", "--actor", "bob", "status=BETA")
    assert (stored(address, "order")["owner"], stored(address, "order")["status"]) == ("a", "BETA")
    assert run(address, "get", "order", "--timeout", "3", "owner=a").returncode == 2


def test_delete_asks_on_a_terminal_and_only_there(address: str) -> None:
    for key in ("gone-1", "gone-2", "gone-3"):
        output(address, "create", key)
    status, text = on_terminal(address, "delete", "gone-1", keys="n\n")
    assert (status, "delete gone-1 of flag set default? [y/N]" in text) == (2, True)
    assert stored(address, "gone-1")
    assert on_terminal(address, "delete", "gone-1", keys="")[0] == 2, "Ctrl-D means no"
    assert on_terminal(address, "delete", "gone-1", keys="y\n")[0] == 0
    assert on_terminal(address, "delete", "gone-2", "--yes")[0] == 0
    output(address, "delete", "gone-3")
    assert run(address, "get", "gone-3").returncode == 1


def test_diff_shows_the_last_change_and_all_since_a_revision(address: str, tmp_path: Path) -> None:
    output(address, "create", "changed", "owner=a", "status=ENABLED")
    first = stored(address, "changed")["revision"]
    output(address, "set", "changed", "owner=b")
    output(address, "set", "changed", "owner=c", "status=BETA")
    output(address, "toggle", "changed", "off")
    last = run(address, "diff", "changed")
    assert (last.returncode, last.stdout.splitlines()[1:]) == (1, ["    status: BETA -> DISABLED"])
    since = run(address, "diff", "changed", "--revision", str(first), "--json")
    assert json.loads(since.stdout)["fields"] == {
        "status": {"before": "ENABLED", "after": "DISABLED"},
        "owner": {"before": "a", "after": "c"},
    }
    assert run(address, "diff", "changed", "--since", "1h").returncode == 1
    file = tmp_path / "flags.ndjson"
    output(address, "export", "--output", str(file))
    assert "no difference" in output(address, "diff", "changed", "--file", str(file))
    file.write_text(file.read_text().replace('"owner": "c"', '"owner": "d"'))
    assert "owner: c -> d" in run(address, "diff", "changed", "--file", str(file)).stdout
    output(address, "create", "changed", "owner=z", "--set", "staging")
    assert "owner: c -> z" in run(address, "diff", "changed", "--with-set", "staging").stdout


class Editor:
    """Replaces a text in the file, after something else has happened."""

    def __init__(self, old: str, new: str, *, meanwhile: tuple[str, ...] = (), address: str = "") -> None:
        self.old, self.new, self.meanwhile, self.address = old, new, meanwhile, address
        self.seen: list[str] = []

    def __call__(self, file: Path) -> None:
        self.seen.append(file.read_text())
        file.write_text(self.seen[-1].replace(self.old, self.new))
        if self.meanwhile:
            output(self.address, *self.meanwhile)


def edited(address: str, editor: Editor, *arguments: str, keys: str = "") -> tuple[int, str]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(edit, "_open_editor", editor)
        return on_terminal(address, "edit", *arguments, keys=keys)


def test_edit_shows_the_difference_and_writes_it(address: str) -> None:
    output(address, "create", "text", "owner=a", 'targeting={"if": [true, "on"]}')
    editor = Editor("owner: a", "owner: b")
    status, shown = edited(address, editor, "text", "--reason", "moved", keys="y\n")
    assert (status, "  owner: a -> b\n" in shown) == (0, True), shown
    assert re.search(r"write this to text \(revision \d+\)\? \[Y/n\]", shown)
    assert "targeting:\n  if:\n" in editor.seen[0], "a rule is edited as YAML, not as a text"
    found = stored(address, "text")
    assert (found["owner"], found["targeting"]) == ("b", {"if": [True, "on"]})
    assert "moved" in output(address, "history", "text")
    assert edited(address, Editor("x", "x"), "text") == (0, "nothing was changed\n")


def test_a_conflict_keeps_the_edited_text_and_says_what_to_do(address: str) -> None:
    output(address, "create", "fought", "owner=a")
    editor = Editor("owner: a", "owner: b", meanwhile=("toggle", "fought", "on"), address=address)
    status, shown = edited(address, editor, "fought", keys="y\n")
    flat = " ".join(shown.split())
    assert (status, "changed while you edited it (FLAG_VERSION_CONFLICT)" in flat) == (1, True), shown
    again = re.search(r"then: flagsvc edit fought --file (\S+)", flat)
    assert again, shown
    assert stored(address, "fought")["owner"] == "a"
    assert edited(address, Editor("", ""), "fought", "--file", again[1], "--yes")[0] == 0
    found = stored(address, "fought")
    assert (found["owner"], found["status"]) == ("b", "ENABLED"), "what the other one changed stays"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("owner: a", "ownr: a", "unknown field 'ownr'; did you mean owner?"),
        ("owner: a", "owner: [", "error: line "),
        ("status: DISABLED", "status: OFF", "status"),
        ("owner: a", "defaultVariant: nope", "flag.default_variant"),
    ],
)
def test_a_text_that_is_no_flag_is_edited_again_or_kept(address: str, old: str, new: str, problem: str) -> None:
    run(address, "create", "slip", "owner=a")
    status, shown = edited(address, Editor(old, new), "slip", keys="n\n")
    assert (status, problem in shown, "your text is kept" in shown) == (1, True, True), shown


def test_bare_help_and_version(address: str) -> None:
    assert run_here().stdout == run_here("help").stdout == run_here("--help").stdout
    assert run_here("help", "toggle").stdout == run_here("toggle", "--help").stdout
    assert run_here("help", "token", "create").stdout == run_here("token", "create", "--help").stdout
    assert run_here("version").stdout == run_here("--version").stdout
    assert "flagsvc help" in run_here("help", "togle").stderr


def test_simulate_counts_variants_and_lists_who_would_change(address: str, tmp_path: Path) -> None:
    split = {"fractional": [["on", 50], ["off", 50]]}
    output(address, "create", "split", "status=ENABLED", f"targeting={json.dumps(split)}")
    users, rule = tmp_path / "users.ndjson", tmp_path / "rule.json"
    lines = [{"targetingKey": f"user-{n}", "plan": "pro" if n % 2 else "free"} for n in range(200)]
    users.write_text("\n".join(map(json.dumps, lines)) + "\n")
    rule.write_text(json.dumps({"if": [{"==": [{"var": "plan"}, "pro"]}, "on", split]}))
    asked = ("simulate", "split", "--contexts", str(users))
    now = json.loads(output(address, *asked, "--json"))
    assert (now["contexts"], now["now"].keys(), len(now["listed"])) == (200, {"on", "off"}, 200)
    for each in now["listed"][:5]:
        answer = output(address, "evaluate", "split", "--targeting-key", each["context"], "--json")
        assert json.loads(answer)["variant"] == each["now"]
    tried = json.loads(output(address, *asked, "--rule", str(rule), "--json"))
    assert tried["then"]["on"] == tried["now"]["on"] + tried["changed"]
    assert {(each["now"], each["then"]) for each in tried["listed"]} == {("off", "on")}
    assert len(tried["listed"]) == tried["changed"] > 0
    piped = run(address, *asked, "--rule", str(rule))
    assert piped.stdout.startswith("context\tnow\tthen\tchanges\nuser-0\t")
    assert piped.stderr == f"{tried['changed']} of 200 contexts would get another variant; nothing was written\n"
    status, text = on_terminal(address, *asked, "--rule", str(rule), "--limit", "3")
    assert (status, text.splitlines()[0].split(), len(text.splitlines())) == (0, ["variant", "now", "then"], 9)
    assert stored(address, "split")["targeting"] == split
    off = json.loads(output(address, *asked, "status=DISABLED", "--json"))
    assert off["then"] == {"(DISABLED)": 200}


def test_simulate_names_the_line_that_is_no_context_and_refuses_a_bad_rule(address: str, tmp_path: Path) -> None:
    run(address, "create", "split2")
    users, rule = tmp_path / "users.ndjson", tmp_path / "rule.json"
    users.write_text('{"targetingKey": "a"}\n\n[1]\n')
    rule.write_text('{"if": [true, "nope"]}')
    asked = ("simulate", "split2", "--contexts", str(users))
    assert f"{users}:3: must be a JSON object" in run(address, *asked).stderr
    refused = run(address, *asked, "--rule", str(rule))
    assert (refused.returncode, "nope" in refused.stderr) == (1, True)
    assert run(address, *asked[:-1], str(tmp_path / "none")).returncode == 2
