"""The guards' core: which rule a method has, what an evaluation means for it, and the texts of refusals."""

from __future__ import annotations

import pickle

import grpc
import pytest
from flagsvc_client.details import ErrorCode, EvaluationDetails, Reason
from flagsvc_client.errors import FlagServiceError
from flagsvc_client.guards import FeatureCheckFailed, FeatureDisabled, Refusal, Rule, Rules, context_of_metadata
from flagsvc_client.guards.rules import by_name, verdict, verdict_on_error
from google.rpc import error_details_pb2, status_pb2

RULE = Rule("support-chat")
OPEN = Rule("support-chat", on_trouble="open")
OFF = "FEATURE_DISABLED"
FAILED = "FEATURE_CHECK_FAILED"


def details(**fields: object) -> EvaluationDetails[bool]:
    return EvaluationDetails(**{"flag_key": "support-chat", "value": False, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "closed", "opened"),
    [
        ({"enabled": True, "value": True, "status": "ENABLED", "reason": Reason.STATIC}, None, None),
        ({"enabled": True, "value": True, "status": "ENABLED", "reason": Reason.STALE}, None, None),
        ({"status": "DISABLED", "reason": Reason.DISABLED}, (OFF, "DISABLED"), (OFF, "DISABLED")),
        ({"status": "DEPRECATED", "reason": Reason.DISABLED}, (OFF, "DEPRECATED"), (OFF, "DEPRECATED")),
        ({"status": "BETA", "value": True, "reason": Reason.TARGETING_MATCH}, (OFF, "BETA"), (OFF, "BETA")),
        ({"status": "ENABLED", "reason": Reason.TARGETING_MATCH}, (OFF, "ENABLED"), (OFF, "ENABLED")),
        ({"status": "DISABLED", "reason": Reason.STALE}, (OFF, "DISABLED"), (OFF, "DISABLED")),
        (
            {"reason": Reason.ERROR, "error_code": ErrorCode.FLAG_NOT_FOUND},
            (OFF, "NOT_FOUND"),
            (OFF, "NOT_FOUND"),
        ),
        ({"reason": Reason.ERROR, "error_code": ErrorCode.PROVIDER_NOT_READY}, (FAILED, ""), None),
        ({"reason": Reason.ERROR, "error_code": ErrorCode.TYPE_MISMATCH}, (FAILED, ""), None),
        ({"reason": Reason.ERROR, "error_code": ErrorCode.PARSE_ERROR}, (FAILED, ""), None),
        ({"reason": Reason.ERROR}, (FAILED, ""), None),
    ],
)
def test_an_evaluation_says_whether_a_call_may_pass(
    answer: dict[str, object], closed: tuple[str, str] | None, opened: tuple[str, str] | None
) -> None:
    for rule, expected in ((RULE, closed), (OPEN, opened)):
        refusal = verdict(rule, details(**answer))
        assert (refusal and (refusal.reason, refusal.status)) == expected


def test_the_text_for_a_flag_that_is_off() -> None:
    refusal = Refusal("support-chat", OFF, "DISABLED")
    assert refusal.code is grpc.StatusCode.PERMISSION_DENIED
    assert refusal.message == 'Feature "support-chat" is not enabled'
    [(name, value)] = refusal.trailers()
    assert name == "grpc-status-details-bin"
    status = status_pb2.Status.FromString(value)
    assert (status.code, status.message) == (7, refusal.message)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("FEATURE_DISABLED", "flagsvc")
    assert dict(info.metadata) == {"feature": "support-chat", "status": "DISABLED"}
    error = refusal.error()
    assert isinstance(error, PermissionError)
    assert isinstance(error, FeatureDisabled)
    assert (str(error), error.feature, error.status) == (refusal.message, "support-chat", "DISABLED")


def test_the_text_when_the_evaluation_failed() -> None:
    refusal = Refusal("support-chat", FAILED)
    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    assert refusal.message == 'Unable to verify feature "support-chat"'
    assert refusal.metadata == {"feature": "support-chat"}
    error = refusal.error()
    assert isinstance(error, FeatureCheckFailed)
    assert error.feature == "support-chat"


@pytest.mark.parametrize("refusal", [Refusal("a", OFF, "DISABLED"), Refusal("a", FAILED)])
def test_the_exceptions_survive_pickling(refusal: Refusal) -> None:
    error = refusal.error()
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_an_exception_instead_of_an_evaluation_is_never_revealed(caplog: pytest.LogCaptureFixture) -> None:
    refusal = verdict_on_error(RULE, ValueError("user=secret"))
    assert refusal == Refusal("support-chat", FAILED)
    assert "secret" not in refusal.message
    assert "secret" in caplog.text
    for _ in range(1000):
        verdict_on_error(RULE, ValueError("user=secret"))
    assert len(caplog.records) == 1
    assert verdict_on_error(OPEN, ValueError("user=secret")) is None


def test_a_client_that_raises_is_understood() -> None:
    unknown = FlagServiceError(grpc.StatusCode.OK, "Flag not found", "FLAG_NOT_FOUND")
    assert verdict_on_error(RULE, unknown) == Refusal("support-chat", OFF, "NOT_FOUND")
    assert verdict_on_error(OPEN, unknown) == Refusal("support-chat", OFF, "NOT_FOUND")
    gone = FlagServiceError(grpc.StatusCode.UNAVAILABLE, "no connection")
    assert verdict_on_error(RULE, gone) == Refusal("support-chat", FAILED)


def test_a_method_has_its_own_rule_before_its_services() -> None:
    rules = Rules({"/a.B/*": "wide", "/a.B/C": Rule("narrow", on_trouble="open"), "/a.B/Free": None})
    assert rules.of("/a.B/C") == Rule("narrow", on_trouble="open")
    assert rules.of("/a.B/D") == Rule("wide")
    assert rules.of("/a.B/Free") is None
    assert rules.of("/a.Bx/D") is None
    assert rules.of("/x.Y/C") is None


@pytest.mark.parametrize("method", ["", "a.B/C", "/a.B", "/a.B/", "//C", "/a.B/C/D", "*"])
def test_a_method_of_an_invalid_form_is_reported_at_once(method: str) -> None:
    with pytest.raises(ValueError, match=r"a method is"):
        Rules({method: "flag"})


def test_a_rule_of_an_invalid_form_is_reported_at_once() -> None:
    with pytest.raises(ValueError, match="key"):
        Rule("")
    with pytest.raises(ValueError, match="on_trouble"):
        Rule("flag", on_trouble="opne")  # type: ignore[arg-type]


def test_headers_set_the_context() -> None:
    pairs = (
        ("user-agent", "grpc"),
        ("flagsvc-targeting-key", "ada"),
        ("flagsvc-context-plan", "free"),
        ("flagsvc-context-plan", "paid"),
        ("flagsvc-context-raw-bin", b"\x00"),
    )
    assert context_of_metadata(by_name(pairs), "/a.B/C") == {"targetingKey": "ada", "plan": "paid"}
    assert context_of_metadata(by_name(grpc.aio.Metadata(*pairs)), "/a.B/C") == {"targetingKey": "ada", "plan": "paid"}
    assert not context_of_metadata(by_name(None), "/a.B/C")
