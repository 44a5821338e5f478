"""What every guard agrees on: which flag guards a method, when a call is refused, and in which words.

The question is `isEnabled`: a flag lets a call pass when its status is ENABLED and its value for that context is true.
So BETA is refused for everybody, as DISABLED is, and a definition served as STALE counts as known.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import grpc

from flagsvc_client.calls import REPEATED_AFTER_S
from flagsvc_client.details import TARGETING_KEY, Context, ErrorCode, EvaluationDetails, Reason
from flagsvc_client.errors import FlagServiceError, status_trailer

log = logging.getLogger("flagsvc_client")
DISABLED = "FEATURE_DISABLED"
CHECK_FAILED = "FEATURE_CHECK_FAILED"
_KEY_HEADER = "flagsvc-targeting-key"
_CONTEXT_HEADER = "flagsvc-context-"
_said: dict[tuple[str, type[Exception]], float] = {}

Metadata = Mapping[str, str | bytes]
"""Request metadata by lower-case name; the last one stands where a name is repeated."""
ContextOf = Callable[[Metadata, str], Context]
"""Gives the context to evaluate for from a call's metadata and its full method name."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The flag that guards, and whether a call passes ("open") or not ("close") when the flag cannot be evaluated."""

    flag: str
    on_trouble: Literal["close", "open"] = "close"

    def __post_init__(self) -> None:
        if not self.flag:
            raise ValueError("a rule needs the key of a flag")
        if self.on_trouble not in ("close", "open"):
            raise ValueError(f'on_trouble is "close" or "open", not {self.on_trouble!r}')


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call may not pass. `reason`: FEATURE_DISABLED or FEATURE_CHECK_FAILED; `status`: the flag's, if known."""

    feature: str
    reason: str
    status: str = ""

    @property
    def code(self) -> grpc.StatusCode:
        """PERMISSION_DENIED for a flag that is off.

        UNAVAILABLE when nobody could tell: nothing was done, so the same call may be sent again and may then pass.
        INTERNAL, which comes nearest to the HTTP 500 of other guards, would accuse the guarded service of a defect.
        """
        return grpc.StatusCode.PERMISSION_DENIED if self.reason == DISABLED else grpc.StatusCode.UNAVAILABLE

    @property
    def message(self) -> str:
        """The text that callers and their tests know."""
        if self.reason == DISABLED:
            return f'Feature "{self.feature}" is not enabled'
        return f'Unable to verify feature "{self.feature}"'

    @property
    def metadata(self) -> dict[str, str]:
        """What the ErrorInfo carries: the feature and, if known, its status."""
        return {"feature": self.feature} | ({"status": self.status} if self.status else {})

    def trailers(self) -> tuple[tuple[str, bytes], ...]:
        """Give the trailing metadata that carries the ErrorInfo."""
        return status_trailer(self.code, self.message, self.reason, self.metadata)

    def error(self) -> FeatureDisabled | FeatureCheckFailed:
        """Give the exception for code that is no gRPC handler."""
        return FeatureDisabled(self) if self.reason == DISABLED else FeatureCheckFailed(self)

    def __str__(self) -> str:
        return self.message


class FeatureDisabled(PermissionError):
    """The flag is not on. `feature`: its key; `status`: such as "DISABLED", or "NOT_FOUND" for an unknown key."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.feature, self.status = refusal.feature, refusal.status


class FeatureCheckFailed(RuntimeError):
    """Nobody could tell whether the flag is on. `feature`: its key."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.feature = refusal.feature


def verdict(rule: Rule, details: EvaluationDetails[bool]) -> Refusal | None:
    """Give None when the call may pass, else why not."""
    if details.error_code is ErrorCode.FLAG_NOT_FOUND:
        return Refusal(rule.flag, DISABLED, "NOT_FOUND")
    if details.error_code is not None or details.reason is Reason.ERROR:
        return _unverified(rule)
    return None if details.enabled else Refusal(rule.flag, DISABLED, details.status)


def verdict_on_error(rule: Rule, error: Exception) -> Refusal | None:
    """Give what an exception in place of details means; its text is for the log, never for the caller."""
    if isinstance(error, FlagServiceError):
        if error.reason == ErrorCode.FLAG_NOT_FOUND:
            return Refusal(rule.flag, DISABLED, "NOT_FOUND")
    else:
        _say_once_a_minute(rule, error)
    return _unverified(rule)


def _say_once_a_minute(rule: Rule, error: Exception) -> None:
    kind, now = (rule.flag, type(error)), time.monotonic()
    if now - _said.get(kind, -REPEATED_AFTER_S) >= REPEATED_AFTER_S:
        _said[kind] = now
        log.error('the context for feature "%s" could not be made', rule.flag, exc_info=error)


def _unverified(rule: Rule) -> Refusal | None:
    return None if rule.on_trouble == "open" else Refusal(rule.flag, CHECK_FAILED)


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules by method: "/package.Service/Method", or "/package.Service/*" for the methods that are not named.

    A flag's key stands for `Rule(key)`; None lets a method of a guarded service pass. Other forms: ValueError.
    """

    table: Mapping[str, str | Rule | None]
    _rules: dict[str, Rule | None] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        for method, rule in self.table.items():
            if method.count("/") != 2 or not method.startswith("/") or "" in method[1:].split("/"):  # noqa: PLR2004
                raise ValueError(f'a method is "/package.Service/Method" or "/package.Service/*", not {method!r}')
            self._rules[method] = Rule(rule) if isinstance(rule, str) else rule

    def of(self, method: str) -> Rule | None:
        """Give the method's rule, else its service's, else None: not guarded."""
        if method in self._rules:
            return self._rules[method]
        return self._rules.get(method.rpartition("/")[0] + "/*")


def context_of_metadata(metadata: Metadata, method: str) -> Context:  # noqa: ARG001  other callables need the method
    """Give the context that headers tell: `flagsvc-targeting-key`, and `flagsvc-context-NAME` for each attribute.

    Names are lower case and values texts, as headers are. Headers are what a caller says of itself: where a flag's rule
    must not believe that, give a callable of your own that reads what has been authenticated.
    """
    context = {
        name.removeprefix(_CONTEXT_HEADER): value
        for name, value in metadata.items()
        if name.startswith(_CONTEXT_HEADER) and isinstance(value, str)
    }
    if _KEY_HEADER in metadata:
        context[TARGETING_KEY] = str(metadata[_KEY_HEADER])
    return context


def by_name(metadata: Iterable[tuple[str, str | bytes]] | None) -> Metadata:
    """Give gRPC's pairs as a mapping."""
    return {name: value for name, value in metadata or ()}  # noqa: C416  dict() would ask grpc.aio.Metadata for keys


def check_client(client: Any, *, asynchronous: bool) -> None:
    """Raise TypeError for a client of the other kind, at once: each question would fail."""
    if inspect.iscoroutinefunction(client.details) is not asynchronous:
        wanted = "flagsvc_client.aio.FlagClient" if asynchronous else "flagsvc_client.FlagClient"
        raise TypeError(f"this guard needs a {wanted}, not a {type(client).__module__}.{type(client).__qualname__}")
