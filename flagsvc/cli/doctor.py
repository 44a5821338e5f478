"""Tries a store and a cache as a replica would use them, and says what to do about what does not work."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import replace

from flagsvc.adapters.checks.steps import Finding, Outcome
from flagsvc.cli import render
from flagsvc.cli.failures import print_error
from flagsvc.cli.tables import Column, print_table
from flagsvc.cli.terminal import is_terminal
from flagsvc.settings import Settings
from flagsvc.urls import CACHE_SCHEMES, STORE_SCHEMES, SettingsError, checked_url, redacted

_CURE = "correct the URL; docs/operating.md lists the options"
_COLUMNS = (
    *(Column("subject"), Column("check"), Column("outcome"), Column("detail", rank=2, least=16)),
    Column("what to do", rank=1, least=16),
)


def doctor(args: argparse.Namespace) -> int:
    """Check what the settings or the arguments name; exit status 1 if a check failed."""
    settings = Settings.from_env(os.environ)
    settings = replace(settings, store_url=args.store or settings.store_url, cache_url=args.cache or settings.cache_url)
    findings = [
        *_checked("store", lambda: _store(settings, args.timeout)),
        *_checked("cache", lambda: _cache(settings, args.timeout)),
        *_snapshot(settings),
        *_tokens(settings),
        *_issuers(settings),
    ]
    if args.json:
        checks = [{**each._asdict(), "outcome": each.outcome.value} for each in findings]
        render.print_json({"checks": checks})
    else:
        rows = ((each.subject, each.check, each.outcome.value, each.detail, each.cure) for each in findings)
        print_table(_COLUMNS, rows, "nothing to check")
        if is_terminal():  # whose table may have had no room for all of it
            for each in findings:
                if each.outcome is Outcome.FAILED:
                    text = f"{each.subject}, {each.check}: {each.detail}: {each.cure}"
                    print_error(text, code="CHECK_FAILED")
    return int(any(each.outcome is Outcome.FAILED for each in findings))


def _checked(subject: str, checks: Callable[[], list[Finding]]) -> list[Finding]:
    """Run the checks; a URL that is not valid is a finding too."""
    try:
        return checks()
    except (SettingsError, ValueError) as error:
        return [Finding(subject, "URL", Outcome.FAILED, str(error), _CURE)]
    except Exception as error:  # noqa: BLE001  a driver may refuse a URL by any error, which may quote the URL
        return [Finding(subject, "URL", Outcome.FAILED, f"the driver refuses it ({type(error).__name__})", _CURE)]


def _store(settings: Settings, timeout_s: float) -> list[Finding]:
    url = checked_url("--store", settings.store_url, STORE_SCHEMES)
    from flagsvc.adapters.build import store_for  # noqa: PLC0415  drivers are imported only if they are used
    from flagsvc.adapters.checks import local_files  # noqa: PLC0415

    if url.startswith("sqlite:"):
        store_for(url, settings)
        return local_files.check_sqlite(url)
    if url.startswith("file:"):
        return local_files.check_flag_files(url)
    from flagsvc.adapters.checks.mongo import check_mongo  # noqa: PLC0415

    return check_mongo(url, timeout_s)


def _cache(settings: Settings, timeout_s: float) -> list[Finding]:
    url = checked_url("--cache", settings.cache_url, CACHE_SCHEMES)
    if url == "none":
        return [Finding("cache", "URL", Outcome.SKIPPED, "none is configured")]
    from flagsvc.adapters.checks.redis import check_redis  # noqa: PLC0415

    return check_redis(url, timeout_s, settings.cache_prefix, redacted(settings.store_url))


def _snapshot(settings: Settings) -> list[Finding]:
    if not settings.snapshot_file:
        return []
    from flagsvc.adapters.checks.local_files import check_snapshot  # noqa: PLC0415

    return check_snapshot(settings.snapshot_file)


def _issuers(settings: Settings) -> list[Finding]:
    if not settings.jwt_issuers_file:
        return []
    from flagsvc.issuers.check import check_issuers  # noqa: PLC0415

    return check_issuers(settings.jwt_issuers_file)


def _tokens(settings: Settings) -> list[Finding]:
    if not settings.tokens_file:
        return []
    from flagsvc.tokens_file.check import check_tokens_file  # noqa: PLC0415

    return check_tokens_file(settings.tokens_file)
