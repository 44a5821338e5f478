"""Options of store and cache URLs: one that is unknown stops the start, and its error names it and the setting."""

from __future__ import annotations

import pytest

from flagsvc.adapters.build import cache_for, store_for
from flagsvc.urls import SettingsError

REFUSED = [
    ("redis://h/0?ssl=true", "unknown option 'ssl' in the URL; use rediss:// for TLS"),
    ("rediss://h/0?ssl_ca_cert=/ca.pem", "unknown option 'ssl_ca_cert' in the URL; did you mean ssl_ca_certs?"),
    ("redis://h/0?decode_responses=true", "unknown option 'decode_responses'"),
    ("redis://h/0?socket_timeout=3", "use FLAGSVC_CACHE_TIMEOUT_S"),
    ("redis://h/0?ssl_ca_certs=/ca.pem", "the option ssl_ca_certs has no effect with redis://"),
    ("rediss://h/0?ssl_check_hostname=nope", "the option ssl_check_hostname must be one of true, false"),
    ("rediss://h/0?ssl_cert_reqs=maybe", "the option ssl_cert_reqs must be one of required, optional, none"),
    ("redis://h/prod", "the URL's path must be a database number"),
    ("redis://h/0?db=1", "the URL has a database in its path and in the option db"),
    ("redis://h?db=one", "the option db must be a number"),
    ("redis://h?db=1&db=2", "the option db stands twice"),
    ("redis://h?client_name=", "the option client_name is empty"),
]


@pytest.mark.parametrize(("url", "words"), REFUSED)
def test_an_option_of_a_cache_url_that_would_fail_later_stops_the_start(url: str, words: str) -> None:
    with pytest.raises(SettingsError) as refused:
        cache_for(url)
    assert str(refused.value).startswith("--cache (FLAGSVC_CACHE_URL): ")
    assert words in str(refused.value)


@pytest.mark.parametrize("name", ["password", "ssl", "ssl_cert_reqs", "nope"])
def test_no_value_of_an_option_is_shown(name: str) -> None:
    with pytest.raises(SettingsError) as refused:
        cache_for(f"rediss://h/0?nope=1&{name}=s3cret")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://h:6379/",
        "redis://h/3",
        "redis://u:p@h?db=3&client_name=flags",
        "redis://h?username=u&password=p",
        "rediss://h/0?ssl_ca_certs=/ca.pem&ssl_certfile=/c&ssl_keyfile=/k&ssl_cert_reqs=required&ssl_check_hostname=no",
    ],
)
def test_urls_of_a_cache_that_are_right(url: str) -> None:
    assert cache_for(url) is not None


STORES = [
    ("mongodb://h/db?ssll=true", "unknown option 'ssll' in the URL"),
    ("mongodb://h/db?tls=maybe", "the option tls has a value that is not valid"),
    ("mongodb://h/db?w=majority&nope=s3cret", "unknown option 'nope' in the URL"),
    ("mongodb://h/db?tls=true&tlsCAFile=/no/such.pem", "the file that the option tlsCAFile names cannot be read"),
    ("sqlite:///flags.db?mode=ro", "sqlite:///FILE takes no options"),
]


@pytest.mark.parametrize(("url", "words"), STORES)
def test_an_option_of_a_store_url_that_would_be_ignored_stops_the_start(url: str, words: str) -> None:
    with pytest.raises(SettingsError) as refused:
        store_for(url)
    assert str(refused.value).startswith("--store (FLAGSVC_STORE_URL): ")
    assert words in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_urls_of_mongodb_that_are_right() -> None:
    options = "replicaSet=rs0&retryWrites=true&w=majority&appName=shop&authSource=admin&tls=true&readPreference=primary"
    assert store_for(f"mongodb://u:p@h/db?{options}")
