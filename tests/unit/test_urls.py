"""Store and cache URLs: what is valid, and that no error and no log line shows a secret of one."""

from __future__ import annotations

import os
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from flagsvc.adapters.build import cache_for, store_for
from flagsvc.cli.main import main
from flagsvc.core.errors import FlagsvcError
from flagsvc.settings import Settings
from flagsvc.urls import (
    CACHE_SCHEMES,
    NOT_SHOWN,
    STORE_SCHEMES,
    SettingsError,
    checked_url,
    host_and_port,
    redacted,
    without_secrets,
)

SECRET = "hunter2hunter2"

GOOD = {
    "mongodb://u:pa,ss@h:27017/db": "mongodb://h:27017/db",
    "mongodb://u,file:x@a:1,b:2/db?replicaSet=rs0": "mongodb://a:1,b:2/db",
    "mongodb://[::1]:27017,[fe80::1]/db": "mongodb://[::1]:27017,[fe80::1]/db",
    "mongodb+srv://u:p%40@cluster.example/db?w=majority": "mongodb+srv://cluster.example/db",
    "mongodb://%2Ftmp%2Fmongodb-27017.sock/db": "mongodb://%2Ftmp%2Fmongodb-27017.sock/db",
    "redis://:pa,ss@h:6379/0": "redis://h:6379/0",
    "rediss://u:p@ss:word@[::1]:6379/1?protocol=3": "rediss://[::1]:6379/1",
    "redis://h": "redis://h",
    "sqlite:///a b.db": "sqlite:///a b.db",
    "file:a.json,b.yaml": "file:a.json,b.yaml",
    "none": "none",
}


@pytest.mark.parametrize(("url", "shown"), GOOD.items())
def test_a_valid_url_and_what_is_shown_of_it(url: str, shown: str) -> None:
    schemes = CACHE_SCHEMES if url.startswith("redis") or url == "none" else STORE_SCHEMES
    assert checked_url("--x", url, schemes) == url
    assert redacted(url) == shown


BAD = {
    f"user:{SECRET}@db:27017/shop": "begins with no known scheme; it must be mongodb://",
    f"{SECRET}": "begins with no known scheme",
    f"mongo://u:{SECRET}@db/shop": "did you mean mongodb://?",
    f"mongodb://u:{SECRET}@x@db/shop": "percent-encode @",
    f"mongodb://u:{SECRET}/x@db/shop": "percent-encode @",
    f"mongodb://u:12?{SECRET}@db/shop": "percent-encode @",
    f"mongodb://u:{SECRET}#x@db/shop": "percent-encode @",
    f"mongodb://u:{SECRET}:x@db/shop": "percent-encode @",
    f"mongodb://u:{SECRET}%x@db/shop": "percent-encode @",
    f"mongodb://u:{SECRET}@::1:27017/shop": "without brackets; it must be written [::1]:PORT",
    f"mongodb://u:{SECRET}@db:99999/shop": "a port that is not a number from 0 to 65535",
    f"mongodb://u:{SECRET}@a:1,,b:2/shop": "no host",
    f"mongodb://u:{SECRET}@db/shop x": "a space or an invisible character",
    f"mongodb://u:{SECRET}@db/shop\u200b": "a space or an invisible character",
    f"mongodb://u:{SECRET}@d\nb/shop": "the control character U+000A",
    f"file:a.json,mongodb://u:{SECRET}@db": "names files and another store",
    f"mongodb://u:{SECRET}@db/x,file:a.json": "names files and another store",
    f"sqlite://u:{SECRET}@host/f.db": "three slashes",
}


@pytest.mark.parametrize(("url", "text"), BAD.items())
def test_an_invalid_url_is_refused_without_showing_it(url: str, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        checked_url("FLAGSVC_STORE_URL", url, STORE_SCHEMES)
    assert text in str(caught.value)
    assert SECRET not in str(caught.value)
    assert SECRET not in redacted(url)


@pytest.mark.parametrize(("host", "text"), [("::", "[::]:80"), ("127.0.0.1", "127.0.0.1:80"), ("db", "db:80")])
def test_an_address_as_text(host: str, text: str) -> None:
    assert host_and_port(host, 80) == text


def test_redis_has_one_host() -> None:
    with pytest.raises(SettingsError, match="several hosts"):
        checked_url("--cache", "redis://a:1,b:2/0", CACHE_SCHEMES)


@pytest.mark.parametrize("url", [f"redis://u:{SECRET}@h/0", f"redis://h?password={SECRET}", "redis://u:%68unter2@h"])
def test_a_drivers_text_that_repeats_a_password_is_not_shown(url: str) -> None:
    assert without_secrets(f"cannot use {SECRET}", url) == "the URL cannot be used"
    assert without_secrets("unknown option 'ssl' in the URL", url) == "unknown option 'ssl' in the URL"
    assert without_secrets("unknown option 'u' in the URL", "redis://u:ur@h") == "unknown option 'u' in the URL"


def test_no_representation_of_the_settings_shows_a_url() -> None:
    found = Settings.from_env({"FLAGSVC_STORE_URL": f"mongodb://u:{SECRET}@h/db"})
    assert SECRET in found.store_url
    assert SECRET not in repr(found)


@pytest.mark.parametrize("words", [["serve", f"mongodb://u:{SECRET}@h/db"], ["serve", f"--sotre=u:{SECRET}@h"]])
def test_a_wrong_argument_that_is_a_url_is_not_repeated(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    errors = capsys.readouterr().err
    assert NOT_SHOWN in errors
    assert SECRET not in errors


_PIECES = st.text(string.ascii_letters + string.digits + "@:/?#%,&= []+.-_é\n\u200b", max_size=6)
_SCHEMES = st.sampled_from(["mongodb://", "mongodb+srv://", "redis://", "rediss://", "mongo://", "sqlite://", "x:", ""])


@st.composite
def urls(draw: st.DrawFn) -> str:
    """A URL, valid or not, with the secret as (a part of) its password or of a secret option."""
    scheme, before, after = draw(_SCHEMES), draw(_PIECES), draw(_PIECES)
    host = draw(st.sampled_from(["h", "h:27017", "[::1]:6379", "::1:6379", "a,b", "h:x", "", "h:99999"]))
    tail = draw(st.sampled_from(["", "/db", "/0", "/a b", "?ssl=true", "/?x=@", "#f"]))
    if draw(st.booleans()):
        return f"{scheme}u:{before}{SECRET}{after}@{host}{tail}"
    return f"{scheme}u:p@{host}/db?tlsCertificateKeyFilePassword={SECRET}&authSource={draw(_PIECES)}"


@settings(deadline=None)  # the first case imports the drivers
@given(
    urls(), st.sampled_from(["STORE_URL", "CACHE_URL", "PORT", "HOST", "LOG_LEVEL", "REFLECTION", "CORS_ORIGINS",
                             "CONTEXT_VALUES", "CONTEXT_FROM_HEADERS", "STORE_URL_FILE", "QQQ"])
)  # fmt: skip
def test_no_error_and_no_log_line_shows_a_secret(url: str, name: str) -> None:
    texts = [redacted(url)]
    with capture_logs() as lines:
        try:
            found = Settings.from_env({f"FLAGSVC_{name}": url})
            texts.append(repr(found))
            store_for(found.store_url, found)
            cache_for(found.cache_url, found)
        except (SettingsError, FlagsvcError) as error:
            texts.append(str(error))
    assert SECRET not in " ".join([*texts, repr(lines)])


def test_an_unreadable_file_is_named_only_if_it_is_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"the file '{tmp_path}/none'"):
        Settings.from_env({"FLAGSVC_STORE_URL_FILE": f"{tmp_path}/none\n"})
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({"FLAGSVC_STORE_URL_FILE": f"redis://:{SECRET}@h"})
    assert SECRET not in str(caught.value)
    assert os.sep not in str(caught.value)
