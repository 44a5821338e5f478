"""Settings: an error names the setting and what is valid, and never shows a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from flagsvc.setting_values import pairs
from flagsvc.settings import Settings, kubernetes_names
from flagsvc.urls import SettingsError, redacted


def test_the_environment_and_then_the_options_win() -> None:
    found = Settings.from_env({"FLAGSVC_PORT": "1", "FLAGSVC_REFLECTION": "false", "PATH": "x"}, {"port": 2})
    assert (found.port, found.reflection, found.drain_s) == (2, False, 1.0)


def test_a_setting_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("redis://:pass@host:6379/0\n")
    found = Settings.from_env({"FLAGSVC_CACHE_URL_FILE": str(tmp_path / "url")})
    assert found.cache_url == "redis://:pass@host:6379/0"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("FLAGSVC_STORE_ULR", "x", "did you mean FLAGSVC_STORE_URL?"),
        ("FLAGSVC_QQQQ", "x", "the settings are FLAGSVC_ANONYMOUS, FLAGSVC_ANSWER_CACHE_BYTES, FLAGSVC_AUTH"),
        ("FLAGSVC_PORT", "70000", "0 to 65535"),
        ("FLAGSVC_PORT", "1.5", "must be a number"),
        ("FLAGSVC_GRACE_S", "nan", "must be from 0 to 300"),
        ("FLAGSVC_REFLECTION", "yes", "must be true or false"),
        ("FLAGSVC_LOG_LEVEL", "verbose", "one of debug, info, warning, error"),
        ("FLAGSVC_STORE_URL", "mongo://db", "did you mean mongodb://?"),
        ("FLAGSVC_STORE_URL", "redis://db", "must be mongodb://"),
        ("FLAGSVC_STORE_URL", "mongodb:///db", "no host"),
        ("FLAGSVC_STORE_URL", "sqlite://x.db", "three slashes"),
        ("FLAGSVC_STORE_URL", "", "is empty"),
        ("FLAGSVC_CACHE_URL", "rediss//x", "redis://..., rediss://... or none"),
        ("FLAGSVC_CACHE_URL", "redis://u:hunter2@h:99x/0", "port that is not a number"),
        ("FLAGSVC_CACHE_URL_FILE", "/no/such/file", "cannot read the file"),
        ("FLAGSVC_SYNC_PORT", "-2", "must be from -1 to 65535"),
        ("FLAGSVC_OFREP_PORT", "65536", "must be from -1 to 65535"),
        ("FLAGSVC_CORS_ORIGINS", "https://a.example,b.example", "'b.example'; it must be * or an origin such as"),
        ("FLAGSVC_CORS_ORIGINS", "https://a.example/page", "must be * or an origin"),
        ("FLAGSVC_CORS_ORIGINS", "https://a.example,", "''; it must be * or an origin"),
        (
            "FLAGSVC_FRACTIONAL_VERSION",
            "3",
            "no setting any more: a flag set has its bucketing, 2 or 3, stored with it",
        ),
        ("FLAGSVC_CONTEXT_VALUES", "plan", "'plan'; each part between commas must be NAME=VALUE"),
        ("FLAGSVC_CONTEXT_VALUES", "a=1,,b=2", "''; each part"),
        ("FLAGSVC_CONTEXT_VALUES", "=x", "'=x'; each part"),
        ("FLAGSVC_CONTEXT_VALUES", "a=1,a=2", "'a' twice"),
        ("FLAGSVC_CONTEXT_FROM_HEADERS", "X-User=", "must be HEADER=NAME"),
        ("FLAGSVC_CONTEXT_FROM_HEADERS", "X User=user", "must be the name of a header"),
        ("FLAGSVC_CONTEXT_FROM_HEADERS", "x-user-bin=user", "must be the name of a header with a text value"),
        ("FLAGSVC_CACHE_PREFIX", "a:b", "'a:b'; it must be at most 64 letters, digits and . _ -"),
        ("FLAGSVC_CACHE_PREFIX", "feature-flag", "and not feature-flag"),
        ("FLAGSVC_STORE_NAME", "x" * 65, "at most 64 letters"),
        ("FLAGSVC_CONTEXT_FROM_HEADERS", "X-User=a,x-user=b", "'x-user' twice"),
    ],
)
def test_an_invalid_setting_is_named(name: str, value: str, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({name: value})
    assert text in str(caught.value)
    assert name.removesuffix("_FILE") in str(caught.value)
    assert "hunter2" not in str(caught.value)


KUBERNETES = {
    "FLAGSVC_PORT": "tcp://10.0.0.1:8013",
    "FLAGSVC_MANAGEMENT_PORT": "tcp://[fd00::1]:8014",
    "FLAGSVC_SERVICE_HOST": "10.0.0.1",
    "FLAGSVC_SERVICE_PORT": "8013",
    "FLAGSVC_SERVICE_PORT_GRPC": "8013",
    "FLAGSVC_PORT_8013_TCP": "tcp://10.0.0.1:8013",
    "FLAGSVC_PORT_8013_TCP_PROTO": "tcp",
    "FLAGSVC_PORT_8013_TCP_PORT": "8013",
    "FLAGSVC_PORT_8013_TCP_ADDR": "10.0.0.1",
    "FLAGSVC_CANARY_SERVICE_HOST": "10.0.0.2",
    "FLAGSVC_CANARY_SERVICE_PORT_HTTP_METRICS": "8014",
    "FLAGSVC_CANARY_PORT": "udp://10.0.0.2:53",
    "FLAGSVC_CANARY_PORT_53_UDP_ADDR": "10.0.0.2",
}


def test_what_kubernetes_sets_for_services_is_no_setting() -> None:
    assert Settings.from_env(KUBERNETES) == Settings()
    assert kubernetes_names({**KUBERNETES, "FLAGSVC_SYNC_PORT": "1", "OTHER_SERVICE_HOST": "x"}) == sorted(KUBERNETES)
    assert kubernetes_names({"FLAGSVC_PORT": "8013", "FLAGSVC_STORE_ULR": "tcp://10.0.0.1:1"}) == []


@pytest.mark.parametrize("name", ["FLAGSVC_PROT", "FLAGSVC_SERVICE_HOSTS", "FLAGSVC_PORT_X_TCP", "FLAGSVC_CANARY_PORT"])
def test_what_only_looks_a_little_like_it_stops_the_start(name: str) -> None:
    with pytest.raises(SettingsError, match=f"unknown setting {name}"):
        Settings.from_env({name: "8013"})


@pytest.mark.parametrize("around", ["{}\n", " {}", "\t{}\r\n", "{} "])
def test_white_space_around_a_value_is_not_part_of_it(around: str) -> None:
    given = {
        "STORE_URL": "mongodb://h/shop",
        "HOST": "::1",
        "PORT": "80",
        "LOG_LEVEL": "debug",
        "CONTEXT_VALUES": "a=b",
    }
    found = Settings.from_env({f"FLAGSVC_{name}": around.format(text) for name, text in given.items()})
    assert (found.store_url, found.host, found.port) == ("mongodb://h/shop", "::1", 80)
    assert (found.log_level, found.context_values) == ("debug", "a=b")


@pytest.mark.parametrize("name", ["SNAPSHOT_FILE", "STORE_URL", "HOST", "CONTEXT_VALUES", "CORS_ORIGINS", "LOG_LEVEL"])
def test_a_control_character_inside_a_value_is_refused_with_its_place(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"FLAGSVC_{name} has the control character U\+000A at character 2"):
        Settings.from_env({f"FLAGSVC_{name}": "a\nb"})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::1", "localhost", "db-1.example", "fe80::1"])
def test_hosts_to_listen_on(host: str) -> None:
    assert Settings.from_env({"FLAGSVC_HOST": host}).host == host


@pytest.mark.parametrize("host", ["", "127.0.0.1:8013", "a b", "[::1]:80", "::1::"])
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(SettingsError, match=r"FLAGSVC_HOST is .*; it must be an address or a host name without a port"):
        Settings.from_env({"FLAGSVC_HOST": host})


def test_an_ipv6_host_may_have_brackets_and_the_management_host_may_be_empty() -> None:
    found = Settings.from_env({"FLAGSVC_HOST": "[::]", "FLAGSVC_MANAGEMENT_HOST": ""})
    assert (found.host, found.management_host) == ("::", "")


def test_pairs_are_read_and_values_kept_as_they_are() -> None:
    assert pairs("plan=pro, region = a=b ,empty=") == {"plan": "pro", "region": " a=b ", "empty": ""}
    assert pairs("X-User-Id=userId, X_Y.z = y", form="HEADER=NAME") == {"x-user-id": "userId", "x_y.z": "y"}
    assert pairs("") == {}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mongodb://u:p%40@a:1,b:2/db?authSource=admin", "mongodb://a:1,b:2/db"),
        ("redis://:secret@h:6379/0", "redis://h:6379/0"),
        ("sqlite:///f.db", "sqlite:///f.db"),
        ("none", "none"),
    ],
)
def test_urls_are_shown_without_credentials(url: str, shown: str) -> None:
    assert redacted(url) == shown
