"""Checks the file of issuers, and that the keys of each can be read, for `flagsvc doctor`."""

from __future__ import annotations

import asyncio

from flagsvc.adapters.causes import Cause
from flagsvc.adapters.checks.steps import Finding, Steps
from flagsvc.issuers.configuration import BadConfiguration, Configuration, Issuer
from flagsvc.issuers.https import FetchFailed
from flagsvc.issuers.issuers import configuration_in
from flagsvc.issuers.key_set import cause_of, published
from flagsvc.issuers.keys import BadKeys, keys_of

_SHOWN = 5


def check_issuers(path: str) -> list[Finding]:
    """Check the file, then each issuer's keys, one after the other."""
    steps, found = Steps("issuers", _cause), Configuration()

    def read() -> str:
        nonlocal found
        found = configuration_in(path)
        return f"{len(found.issuers)} issuers, {len(found.certificates)} rules for client certificates"

    steps.run("file", read)
    for each in found.issuers:
        steps.run(f"keys of {each.issuer}", lambda each=each: _keys(each))  # type: ignore[misc]
    return steps.findings


def _keys(issuer: Issuer) -> str:
    names = sorted({kid for kid, _ in keys_of(asyncio.run(published(issuer)), issuer.algorithms)})
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} keys: {', '.join(names[:_SHOWN])}{more}"


def _cause(error: Exception) -> Cause:
    if isinstance(error, BadConfiguration):
        return Cause(str(error)[:300], "correct the file; docs/jwt.md describes it")
    if isinstance(error, FetchFailed | BadKeys | OSError):
        return Cause(cause_of(error), "check jwks, ca_file and token_file of the issuer, and the network")
    return Cause(type(error).__name__, "see docs/jwt.md")
