"""What all guards share: which flag guards a method, when a call is refused, and with which message.

A call passes if the flag is enabled: its status is ENABLED and its value for that context is true. So BETA is refused
for everybody, as DISABLED is, and a STALE evaluation counts like any other.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import grpc

from flagsvc_client.aio import AsyncFlagClient
from flagsvc_client.details import TARGETING_KEY, Context, ErrorCode, EvaluationDetails, Reason
from flagsvc_client.errors import FlagServiceError, status_trailer
from flagsvc_client.failure_log import REPEAT_AFTER_S, log
from flagsvc_client.substitutes import StrictError
from flagsvc_client.sync import FlagClient

DISABLED = "FEATURE_DISABLED"
CHECK_FAILED = "FEATURE_CHECK_FAILED"
_KEY_HEADER = "flagsvc-targeting-key"
_CONTEXT_HEADER = "flagsvc-context-"
_logged_at: dict[tuple[str, type[Exception]], float] = {}

Metadata = Mapping[str, str | bytes]
"""Request metadata by lower-case name; of a repeated name the last value."""
ContextOf = Callable[[Metadata, str], Context]
"""Takes a call's metadata and its full method name, and returns the evaluation context."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The flag that guards, and whether a call passes ("open") or not ("close") if the flag cannot be evaluated."""

    flag: str
    on_trouble: Literal["close", "open"] = "close"

    def __post_init__(self) -> None:
        if not self.flag:
            raise ValueError("a rule needs the key of a flag")
        if self.on_trouble not in ("close", "open"):
            raise ValueError(f'on_trouble must be "close" or "open", not {self.on_trouble!r}')


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call is refused. `reason`: FEATURE_DISABLED or FEATURE_CHECK_FAILED. `status`: the flag's, if known."""

    feature: str
    reason: str
    status: str = ""

    @property
    def code(self) -> grpc.StatusCode:
        """PERMISSION_DENIED if the flag is off, UNAVAILABLE if it could not be evaluated.

        UNAVAILABLE, because nothing was done and the caller may retry. INTERNAL, the counterpart of the HTTP 500 that
        other guards answer, would report a defect of the guarded service.
        """
        return grpc.StatusCode.PERMISSION_DENIED if self.reason == DISABLED else grpc.StatusCode.UNAVAILABLE

    @property
    def message(self) -> str:
        """The exact text that callers and their tests rely on."""
        if self.reason == DISABLED:
            return f'Feature "{self.feature}" is not enabled'
        return f'Unable to verify feature "{self.feature}"'

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of the ErrorInfo: the feature and, if known, its status."""
        return {"feature": self.feature} | ({"status": self.status} if self.status else {})

    def trailers(self) -> tuple[tuple[str, bytes], ...]:
        """Return the trailing metadata with the ErrorInfo."""
        return status_trailer(self.code, self.message, self.reason, self.metadata)

    def error(self) -> FeatureDisabled | FeatureCheckFailed:
        """Return the exception for code that is not a gRPC handler."""
        return FeatureDisabled(self) if self.reason == DISABLED else FeatureCheckFailed(self)

    def __str__(self) -> str:
        return self.message


class FeatureDisabled(PermissionError):
    """The flag is not on. `feature`: its key; `status`: such as "DISABLED", or "NOT_FOUND" for an unknown key."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.feature, self.status = refusal.feature, refusal.status


class FeatureCheckFailed(RuntimeError):
    """The flag could not be evaluated. `feature`: its key."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.feature = refusal.feature


def verdict(rule: Rule, details: EvaluationDetails[bool]) -> Refusal | None:
    """Return None if the call may pass, otherwise the refusal."""
    if details.error_code is ErrorCode.FLAG_NOT_FOUND:
        return Refusal(rule.flag, DISABLED, "NOT_FOUND")
    if details.error_code is not None or details.reason is Reason.ERROR:
        return _unverified(rule)
    return None if details.enabled else Refusal(rule.flag, DISABLED, details.status)


def verdict_on_error(rule: Rule, error: Exception) -> Refusal | None:
    """Return the verdict if evaluating raised an exception; its text is for the log, never for the caller.

    Raises StrictError again, which only tests see.
    """
    if isinstance(error, StrictError):
        raise error
    if isinstance(error, FlagServiceError):
        if error.reason == ErrorCode.FLAG_NOT_FOUND:
            return Refusal(rule.flag, DISABLED, "NOT_FOUND")
    else:
        _log_once_a_minute(rule, error)
    return _unverified(rule)


def _log_once_a_minute(rule: Rule, error: Exception) -> None:
    kind, now = (rule.flag, type(error)), time.monotonic()
    if now - _logged_at.get(kind, -REPEAT_AFTER_S) >= REPEAT_AFTER_S:
        _logged_at[kind] = now
        message = 'the check of feature "%s" failed; its context function may be at fault'
        log.error(message, rule.flag, exc_info=error, extra={"event": "feature_check_failed"})


def _unverified(rule: Rule) -> Refusal | None:
    return None if rule.on_trouble == "open" else Refusal(rule.flag, CHECK_FAILED)


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules by method: "/package.Service/Method", or "/package.Service/*" for its other methods.

    A flag's key means `Rule(key)`; None leaves a method of a guarded service unguarded. Raises ValueError for a method
    of another form.
    """

    table: Mapping[str, str | Rule | None]
    _rules: dict[str, Rule | None] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        for method, rule in self.table.items():
            if method.count("/") != 2 or not method.startswith("/") or "" in method[1:].split("/"):  # noqa: PLR2004
                raise ValueError(f'a method is "/package.Service/Method" or "/package.Service/*", not {method!r}')
            self._rules[method] = Rule(rule) if isinstance(rule, str) else rule

    def of(self, method: str) -> Rule | None:
        """Return the method's rule, otherwise its service's, or None if it is not guarded."""
        if method in self._rules:
            return self._rules[method]
        return self._rules.get(method.rpartition("/")[0] + "/*")


def context_of_metadata(metadata: Metadata, method: str) -> Context:  # noqa: ARG001  other callables need the method
    """Return the context from the headers `flagsvc-targeting-key` and `flagsvc-context-NAME`, one for each attribute.

    Names are lower case and values are strings, as in all headers. The caller sets them, so nothing proves them: if a
    rule needs authenticated facts, pass a callable of your own that reads them.
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
    """Return gRPC's pairs as a mapping."""
    return {name: value for name, value in metadata or ()}  # noqa: C416  dict() would ask grpc.aio.Metadata for keys


def _is_asynchronous(client: Any) -> bool:
    """By class, which a mock with a spec has too; other clients by their methods."""
    if isinstance(client, AsyncFlagClient | FlagClient):
        return isinstance(client, AsyncFlagClient)
    return inspect.iscoroutinefunction(client.details)


def check_client(client: Any, *, asynchronous: bool) -> None:
    """Raise TypeError for a client of the other form, with which every check would fail."""
    if _is_asynchronous(client) is not asynchronous:
        expected = "flagsvc_client.AsyncFlagClient" if asynchronous else "flagsvc_client.FlagClient"
        raise TypeError(f"this guard needs a {expected}, not a {type(client).__module__}.{type(client).__qualname__}")
