"""Why a store or cache cannot be used, in words: a driver's error in, a cause and a cure out; no address, no secret."""

from __future__ import annotations

import ssl

import pytest
from pymongo.errors import AutoReconnect, DocumentTooLarge, OperationFailure, ServerSelectionTimeoutError
from redis import exceptions

from flagsvc.adapters.causes import MAX_CHARS
from flagsvc.adapters.mongo.causes import mongo_cause, refused_change
from flagsvc.adapters.redis.causes import CREDENTIALS, REFUSES, UNAVAILABLE, redis_cause

_SCRIPT = "Error running script (call to f_ec61): @user_script:1: @user_script: 1: "
REFUSALS = [
    (
        exceptions.ResponseError(f"{_SCRIPT}-READONLY You can't write against a read only replica."),
        "READONLY",
        "primary",
    ),
    (exceptions.ReadOnlyError("You can't write", status_code="READONLY"), "READONLY You", "primary"),
    (exceptions.ResponseError(f"{_SCRIPT}-OOM command not allowed"), "OOM command", "maxmemory"),
    (exceptions.ResponseError("MISCONF Redis is configured to save RDB snapshots"), "MISCONF", "disk"),
    (exceptions.ResponseError(f"{_SCRIPT}The user executing the script can't run this command"), "can't run", "grant"),
    (exceptions.NoPermissionError("this user has no permissions", status_code="NOPERM"), "NOPERM this user", "grant"),
    (exceptions.ResponseError("NOREPLICAS Not enough good replicas to write."), "NOREPLICAS", "replicas"),
    (exceptions.ClusterCrossSlotError("Keys in request don't hash", status_code="CROSSSLOT"), "CROSSSLOT", "cluster"),
]


@pytest.mark.parametrize(("error", "words", "cure"), REFUSALS)
def test_a_refusal_of_redis_is_in_its_own_words(error: Exception, words: str, cure: str) -> None:
    cause = redis_cause(error)
    assert cause.problem == REFUSES
    assert cause.text.startswith("Redis refuses: ")
    assert words in cause.text
    assert "user_script" not in cause.text
    assert cure in cause.cure


def test_what_redis_says_is_bounded_and_shows_neither_addresses_nor_arguments() -> None:
    moved = redis_cause(exceptions.MovedError("3999 10.1.2.3:6381", status_code="MOVED"))
    assert moved.text == "Redis refuses: MOVED: this Redis is a member of a cluster"
    disabled = redis_cause(
        exceptions.ResponseError("unknown command `EVAL`, with args beginning with: `return 's3cret'`")
    )
    assert disabled.text == "Redis refuses: unknown command `EVAL`"
    assert "rename" in disabled.cure
    piped = redis_cause(
        exceptions.ResponseError("Command # 1 (EVAL s3cret (x)) of pipeline caused error: ('NOPERM no \\x1b rights',)")
    )
    assert piped.text == "Redis refuses: NOPERM no \\x1b rights"
    direct = exceptions.OutOfMemoryError("Command # 1 (GET x) of pipeline caused error: no memory.", status_code="OOM")
    assert redis_cause(direct).text == "Redis refuses: OOM no memory"
    long = redis_cause(exceptions.ResponseError("MISCONF at 10.0.0.1:6379 \x1b[31m" + "x" * 10_000)).text
    assert len(long) < MAX_CHARS + 30
    assert "10.0.0.1" not in long
    assert long.isprintable()


@pytest.mark.parametrize(
    ("error", "problem", "words"),
    [
        (
            exceptions.AuthenticationError("invalid username-password pair", status_code="WRONGPASS"),
            CREDENTIALS,
            "pair",
        ),
        (exceptions.AuthenticationError("Authentication required.", status_code="NOAUTH"), CREDENTIALS, "NOAUTH"),
        (exceptions.BusyLoadingError("Redis is loading the dataset", status_code="LOADING"), UNAVAILABLE, "LOADING"),
        (TimeoutError(), UNAVAILABLE, "does not answer in time"),
        (exceptions.ConnectionError("Error 111 connecting to 10.0.0.1:1. Connect call failed"), UNAVAILABLE, "refused"),
        (exceptions.ConnectionError("Error -2 connecting to h:1. Name or service not known."), UNAVAILABLE, "resolved"),
        (exceptions.ConnectionError("Error 2 connecting to h:1. No such file or directory."), UNAVAILABLE, "file"),
        (exceptions.ConnectionError("Connection closed by server."), UNAVAILABLE, "closes the connection"),
        (TypeError("unexpected keyword argument 's3cret'"), UNAVAILABLE, "TypeError"),
    ],
)
def test_other_causes_of_redis(error: Exception, problem: str, words: str) -> None:
    cause = redis_cause(error)
    assert (cause.problem, cause.is_refusal) == (problem, problem != UNAVAILABLE)
    assert words in cause.text
    assert "10.0.0.1" not in cause.text
    assert "s3cret" not in cause.text


def selection(said: str) -> ServerSelectionTimeoutError:
    return ServerSelectionTimeoutError(f"{said}, Timeout: 2.0s, Topology Description: <TopologyDescription id: 1>")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (selection("10.0.0.1:27017: [Errno 111] Connection refused (configured timeouts: connect: 2s)"), "refused"),
        (selection("h:1: [SSL: CERTIFICATE_VERIFY_FAILED] unable to get local issuer certificate"), "unknown CA"),
        (selection("SSL handshake failed: h:1: Hostname mismatch, certificate is not valid"), "for another host"),
        (selection("h:1: [Errno -2] Name or service not known"), "cannot be resolved"),
        (selection('No replica set members match selector "Primary()"'), "no member of the replica set is its primary"),
        (AutoReconnect("10.0.0.1:27017: connection closed"), "closes the connection"),
        (selection("Authentication failed., full error: {'codeName': 'AuthenticationFailed'}"), "refuses the user"),
        (OperationFailure("Authentication failed.", 18), "refuses the user or the password"),
        (OperationFailure("s3cret", 4242), "fails with code 4242"),
        (ssl.SSLError("[SSL: WRONG_VERSION_NUMBER] wrong version number"), "does not use TLS"),
    ],
)
def test_causes_of_mongodb(error: Exception, words: str) -> None:
    cause = mongo_cause(error)
    assert words in cause.text
    assert "10.0.0.1" not in cause.text
    assert "s3cret" not in cause.text


def test_a_right_that_is_missing_is_named() -> None:
    said = 'not authorized on shop to execute command { insert: "audit_logs", ordered: true, lsid: { id: UUID("1") } }'
    cause = mongo_cause(OperationFailure(said, 13, {"errmsg": said}))
    assert cause.text == "MongoDB's user has no right to run insert on audit_logs"


def test_a_change_that_conflicts_with_another_is_not_refused_for_good() -> None:
    conflict = {"errorLabels": ["TransientTransactionError"], "code": 121}
    assert refused_change(OperationFailure("conflict", 121, conflict)) is None
    assert refused_change(OperationFailure("no", 121, {"code": 121})) is not None
    assert refused_change(OperationFailure("again", 112)) is None


@pytest.mark.parametrize("error", [DocumentTooLarge("over"), *(OperationFailure("", n) for n in (10334, 17419, 17420))])
def test_a_document_that_is_too_large_is_refused_for_good(error: Exception) -> None:
    assert "the document is larger than MongoDB stores" in str(refused_change(error))
