"""Shell completion, set up as docs/cli.md says: what a shell is offered at the cursor."""

from __future__ import annotations

import io
import shutil
import subprocess
from unittest.mock import patch

import pytest

from flagsvc.cli.completion import complete
from flagsvc.cli.parser import build_parser
from tests.command_line import run_here
from tests.replicas import FLAGSVC

pytestmark = pytest.mark.xdist_group("cli completion")


class EndedError(Exception):
    """Completion ends the process."""


def offered(line: str, **environment: str) -> list[str]:
    """Return what a shell gets for a command line with the cursor at its end."""
    output = io.BytesIO()
    output.close = lambda: None  # type: ignore[method-assign]
    text = io.TextIOWrapper(output, encoding="utf-8", write_through=True)

    def end(_status: int) -> None:
        raise EndedError

    shell = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": line, "COMP_POINT": str(len(line.encode()))}
    quiet = patch("argcomplete.finders.CompletionFinder._init_debug_stream")  # it takes a descriptor of the test run
    with quiet, patch.dict("os.environ", {**shell, **environment}), pytest.raises(EndedError):
        complete(build_parser(), output_stream=text, exit_method=end)
    return [word.strip() for word in output.getvalue().decode().splitlines()]


def test_commands_options_states_and_fields() -> None:
    assert offered("flagsvc tog") == ["toggle"]
    assert {"list", "watch", "help"} <= set(offered("flagsvc "))
    assert offered("flagsvc list --flag") == ["--flag-set"]
    assert offered("flagsvc list -o ") == ["wide", "json", "yaml", "name"]
    assert {"on", "off"} <= set(offered("flagsvc toggle a "))
    assert offered("flagsvc set a ow") == ["owner="]
    assert offered("flagsvc set a status=E") == ["status=ENABLED"]
    assert offered("flagsvc token cre") == ["create"]


def test_keys_of_the_servers_flags(address: str) -> None:
    for key in ("checkout-v2", "checkout-v3", "banner"):
        run_here("create", key, FLAGSVC_ADDRESS=address)
    assert offered("flagsvc toggle check", FLAGSVC_ADDRESS=address) == ["checkout-v2", "checkout-v3"]
    assert offered(f"flagsvc toggle --address {address} ban") == ["banner"]
    assert offered("flagsvc toggle check", FLAGSVC_ADDRESS="127.0.0.1:1") == []


def test_profiles(tmp_path: object) -> None:
    file = {"FLAGSVC_PROFILES_FILE": f"{tmp_path}/profiles.json"}
    run_here("profile", "add", "prod", "--address", "127.0.0.1:1", **file)
    assert offered("flagsvc list --profile ", **file) == ["prod"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell(shell: str) -> None:
    script = run_here("completion", shell).stdout
    assert "_ARGCOMPLETE" in script
    assert "flagsvc" in script
    if program := shutil.which(shell):
        subprocess.run([program, "-n", "/dev/stdin"], input=script, text=True, check=True, timeout=20)


def test_bash_completes_with_it(address: str) -> None:
    run_here("create", "only-one", FLAGSVC_ADDRESS=address)
    lines = (
        f'export PATH="{FLAGSVC.parent}:$PATH" FLAGSVC_ADDRESS={address}',
        'eval "$(flagsvc completion bash)"',
        'COMP_LINE="flagsvc get only-" COMP_POINT=17 COMP_TYPE=9 COMP_CWORD=2 COMP_WORDS=(flagsvc get only-)',
        "_python_argcomplete flagsvc 2>/dev/null",
        'printf "%s\\n" "${COMPREPLY[@]}"',
    )
    done = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["only-one"], done.stderr
