"""FLAGSVC_AUTH: without it nothing but this machine can connect."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from flagsvc.auth_mode import auth_mode, warn
from flagsvc.core.errors import AuthOff
from flagsvc.settings import Settings
from flagsvc.urls import SettingsError
from tests.command_line import run_here
from tests.replicas import FLAGSVC

ONLY_UNIX = {"port": "unix:/a", "sync_port": -1, "ofrep_port": "unix:/b", "management_port": -1}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"host": "::1"},
        {"host": "127.9.9.9"},
        {"host": "localhost"},
        {"host": "::ffff:127.0.0.1"},
        {"host": "0.0.0.0", **ONLY_UNIX},
        {"host": "0.0.0.0", "management_host": "127.0.0.1", **ONLY_UNIX, "management_port": 0},
        {"host": "0.0.0.0", "auth": "off"},
    ],
)
def test_what_only_this_machine_reaches_or_was_decided_is_off(settings: dict[str, Any]) -> None:
    assert auth_mode(Settings(**settings)) == "off"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"host": "0.0.0.0"}, "0.0.0.0"),
        ({"host": "::"}, "::"),
        ({"host": "10.1.2.3"}, "10.1.2.3"),
        ({"host": "db.example"}, "db.example"),
        ({"host": "localhost.example"}, "localhost.example"),
        ({"host": "0.0.0.0", **ONLY_UNIX, "ofrep_port": 8016}, "0.0.0.0"),
        ({"management_host": "0.0.0.0"}, "0.0.0.0"),
        ({"host": "10.1.2.3", "management_host": "10.1.2.4"}, "10.1.2.3 and 10.1.2.4"),
    ],
)
def test_what_others_reach_needs_a_decision(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=f"connect to {named}: .* set FLAGSVC_AUTH=off.* FLAGSVC_HOST=127.0.0.1"):
        auth_mode(Settings(**settings))


def test_an_undecided_start_warns_once_and_a_decided_one_does_not() -> None:
    with capture_logs() as logs:
        warn(Settings(auth="off", host="0.0.0.0"))
        warn(Settings(auth="required"))
        assert not logs
        warn(Settings())
        warn(Settings(auth="required", host="0.0.0.0"))
    events = [(line["event"], line["log_level"]) for line in logs]
    assert events == [("auth_not_decided", "warning"), ("tokens_in_plain_text", "warning")]


def test_a_role_for_anonymous_callers_needs_authentication() -> None:
    for settings in (Settings(anonymous="grpc=read@*"), Settings(anonymous="grpc=read@*", auth="off")):
        with pytest.raises(SettingsError, match="FLAGSVC_ANONYMOUS has no effect"):
            auth_mode(settings)


def test_a_server_for_all_addresses_says_what_would_allow_it_and_does_not_start(tmp_path: Path) -> None:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("FLAGSVC_")}
    done = subprocess.run(
        [FLAGSVC, "serve", "--port", "0"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=environment | {"FLAGSVC_HOST": "0.0.0.0"},
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: FLAGSVC_AUTH is not set, and other machines can connect to 0.0.0.0: ")
    command = done.stderr.partition("the first token with: flagsvc ")[2].partition(". If only")[0]
    words = command.replace("NAME", "admin").replace("URL", f"sqlite:///{tmp_path}/flags.db").split()
    assert run_here(*words).returncode == 0, "the cure works as it is written"


def test_the_cure_for_a_server_without_authentication_works_as_it_is_written(tmp_path: Path) -> None:
    words = str(AuthOff()).partition("on the store: flagsvc ")[2].replace("NAME", "ci").replace("ROLE", "admin")
    assert run_here(*words.replace("URL", f"sqlite:///{tmp_path}/flags.db").split()).returncode == 0


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({"host": "0.0.0.0", "auth": "required"}, ["tokens_in_plain_text"]),
        ({"host": "0.0.0.0", "auth": "required", "tls_cert": "/c"}, []),
        ({"auth": "required"}, []),
        ({"host": "0.0.0.0", "auth": "off"}, []),
    ],
)
def test_tokens_that_others_can_read_are_warned_of(settings: dict[str, Any], warned: list[str]) -> None:
    with capture_logs() as logs:
        warn(Settings(**settings))
    assert [line["event"] for line in logs] == warned
