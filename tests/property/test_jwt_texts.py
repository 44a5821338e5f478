"""Whatever arrives as a token, or as a set of keys, is taken or refused in words, and never an internal error."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flagsvc.issuers.claims import check_audience, ends_at, subject
from flagsvc.issuers.configuration import ALGORITHMS, BadConfiguration, configuration
from flagsvc.issuers.keys import BadKeys, keys_of
from flagsvc.issuers.refusals import BadToken
from flagsvc.issuers.token_text import token_text
from tests.access.issuing import ec_key, encoded, github_claims, jwk_of
from tests.sizes import examples

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
HEADERS = st.dictionaries(
    st.sampled_from(["alg", "kid", "typ", "crit", "jku"]) | st.text(max_size=8), VALUES, max_size=5
)


@given(st.text(max_size=60) | st.text("aA0_-.=", max_size=60))
@settings(max_examples=examples(60), deadline=None)
def test_any_text_is_refused_or_taken_apart(text: str) -> None:
    with contextlib.suppress(BadToken):
        token_text(text)


@given(HEADERS, st.dictionaries(st.sampled_from(["iss", "aud", "exp", "nbf", "iat", "sub"]), VALUES))
@settings(max_examples=examples(60), deadline=None)
def test_any_header_and_claims_are_refused_or_checked(header: dict[str, Any], changed: dict[str, Any]) -> None:
    claims = github_claims() | changed
    text = f"{encoded({'alg': 'ES256', 'kid': 'k'} | header)}.{encoded(claims)}.AA"
    with contextlib.suppress(BadToken):
        parsed = token_text(text)
        check_audience(parsed.claims, {"flagsvc"})
        subject(parsed.claims)
        assert 0 <= ends_at(parsed.claims, 0.0) < 2e11


@given(st.dictionaries(st.sampled_from(["kty", "crv", "x", "y", "n", "e", "use", "alg", "key_ops", "kid"]), VALUES))
@settings(max_examples=examples(60), deadline=None)
def test_any_key_is_used_or_left_out(changed: dict[str, Any]) -> None:
    document = json.dumps({"keys": [jwk_of(ec_key(), "good"), jwk_of(ec_key(), "k") | changed]})
    with contextlib.suppress(BadKeys):
        assert ("good", "ES256") in keys_of(document.encode(errors="surrogatepass"), frozenset(ALGORITHMS))


@given(VALUES, st.sampled_from(["", "issuer", "audience", "jwks", "algorithms", "rules", "context", "ca_file"]))
@settings(max_examples=examples(60), deadline=None)
def test_any_configuration_is_used_or_named_as_wrong(value: Any, field: str) -> None:
    rule = {"when": [{"claim": "sub", "equals": "a"}], "grant": "read@*"}
    entry = {"issuer": "a", "audience": "b", "jwks": "file:c", "rules": [rule], field: value}
    document = {"issuers": [entry]} if field else value
    with contextlib.suppress(BadConfiguration):
        configuration("issuers.json", json.dumps(document).encode(errors="surrogatepass"))
