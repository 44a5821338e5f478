"""Why MongoDB cannot be used, and which changes it will never take."""

from __future__ import annotations

import re

from bson.errors import BSONError
from pymongo.errors import DocumentTooLarge, DuplicateKeyError, OperationFailure, ServerSelectionTimeoutError

from flagsvc.adapters.causes import Cause, chain, connection_cause
from flagsvc.core.errors import ChangeRefused, StoreForbidden, StoreUnavailable

UNAUTHORIZED = 13
_AUTHENTICATION_FAILED = 18
_RIGHTS = "grant the store URL's user the rights that docs/operating.md lists"
_COMMAND = re.compile(r'execute command \{ (\w+): "?([\w.]+)')
_REFUSED = {
    2: "it finds a value in it invalid",
    14: "a field has a type that its update cannot change",
    28: "a field on the way to the changed one is no document",
    52: "it refuses a field's name",
    55: "it refuses a field's name",
    66: "a field that cannot change would have to",
    121: "the collection's validator does not allow the document",
    10334: "the document is larger than MongoDB stores (16 MB)",
    16755: "a geospatial index does not take the document",
    17280: "a value is too long for an index of the collection",
    17419: "the document is larger than MongoDB stores (16 MB)",
    17420: "the document is larger than MongoDB stores (16 MB)",
}
"""Failures of a change that repeating it does not mend, by MongoDB's code."""
_NO_PRIMARY = Cause(
    "no member of the replica set is its primary",
    "check that a majority of the set's members run, and that replicaSet in the URL is the set's name",
)


def mongo_cause(error: BaseException) -> Cause:
    """Return why MongoDB cannot be used, without its own words: they contain addresses and data."""
    failures = [each for each in chain(error) if isinstance(each, OperationFailure)]
    # The first attempt fails with the code; then the driver counts the server as unknown, and quotes the failure.
    refuses_login = any(failure.code == _AUTHENTICATION_FAILED for failure in failures)
    if refuses_login or any("codeName': 'AuthenticationFailed'" in str(each) for each in chain(error)):
        return Cause("MongoDB refuses the user or the password", "correct the credentials and authSource in the URL")
    for failure in failures:
        if failure.code == UNAUTHORIZED:
            return Cause(f"MongoDB's user has no right to {_attempted(failure)}", _RIGHTS)
    selection = next((each for each in chain(error) if isinstance(each, ServerSelectionTimeoutError)), None)
    connecting = connection_cause(error)
    if selection is not None and (connecting is None or "answer in time" in connecting.text):
        said = str(selection)
        if "Primary()" in said or "replica set" in said.partition("Topology Description")[0]:
            return _NO_PRIMARY
    if connecting is not None:
        return connecting
    if failures:
        return Cause(f"MongoDB fails with code {failures[0].code}", "see MongoDB's log")
    return Cause(f"the driver fails with {type(error).__name__}", "see MongoDB's log")


def unavailable(error: BaseException) -> StoreUnavailable:
    """Return the error for a read or change that failed: StoreForbidden where the user has no right."""
    cause = mongo_cause(error)
    if isinstance(error, OperationFailure) and error.code == UNAUTHORIZED:
        text = f"the flag store refuses this: its user has no right to {_attempted(error)}"
        return StoreForbidden(text, cause=cause.text, cure=cause.cure)
    return StoreUnavailable(cause=cause.text, cure=cause.cure)


def refused_change(error: Exception) -> ChangeRefused | None:
    """Return the error for a change that MongoDB will never take; None where repeating it may help."""
    reason = None
    if isinstance(error, DuplicateKeyError):
        reason = _taken(error)
    elif isinstance(error, OperationFailure) and not error.has_error_label("TransientTransactionError"):
        reason = _REFUSED.get(error.code or 0)
    elif isinstance(error, DocumentTooLarge):
        reason = _REFUSED[10334]
    elif isinstance(error, BSONError | OverflowError):
        reason = "a value has no form in BSON"
    return ChangeRefused(reason) if reason else None


def _taken(error: DuplicateKeyError) -> str | None:
    """Name the index's fields, unless another writer of this very flag may have been faster."""
    fields = list((error.details or {}).get("keyPattern", {}))
    if not fields or "key" in fields or fields == ["_id"]:
        return None
    return f"a unique index on {', '.join(fields)} has this value already"


def _attempted(error: OperationFailure) -> str:
    """Return what the user may not do, such as `insert into audit_logs`."""
    found = _COMMAND.search(str((error.details or {}).get("errmsg", "")))
    return f"run {found[1]} on {found[2]}" if found else "do this"
