"""The unmodified Python providers of a server that requires authentication; one port wants client certificates."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from openfeature.exception import ErrorCode, OpenFeatureError

from tests.certificates import Signed
from tests.languages.guarded import ANONYMOUS, CALLER, FLAG, Guarded, serving_guarded
from tests.ofrep.python_app import PythonApp as OfrepApp
from tests.providers.python_app import PythonApp


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("python")
    with serving_guarded(folder, anonymous=ANONYMOUS, client_certificates="sync") as served:
        yield served


def showing(guarded: Guarded, token: str, own: Signed | None = None) -> grpc.ChannelCredentials:
    """What both flagd providers take as `channel_credentials`."""
    transport = guarded.authority.credentials(own)
    if not token:
        return transport
    return grpc.composite_channel_credentials(transport, grpc.access_token_call_credentials(token))


@pytest.mark.parametrize("in_process", [False, True])
def test_a_token(guarded: Guarded, in_process: bool) -> None:
    port = guarded.server.port
    right = showing(guarded, guarded.access["read" if in_process else "evaluate"].token)
    with PythonApp(in_process=in_process, port=port, channel_credentials=right) as app:
        assert app.value(FLAG, False, "boolean") is True
    wrong = showing(guarded, guarded.wrong.token)
    with pytest.raises(OpenFeatureError):
        PythonApp(in_process=in_process, port=port, channel_credentials=wrong, deadline_ms=500).__enter__()


def test_a_client_certificate(guarded: Guarded) -> None:
    port = guarded.server.sync_port
    right = showing(guarded, "", guarded.signed(CALLER))
    with PythonApp(in_process=True, port=port, channel_credentials=right) as app:
        assert app.value(FLAG, False, "boolean") is True
    for wrong in (showing(guarded, "", guarded.signed("other.internal")), showing(guarded, "")):
        with pytest.raises(OpenFeatureError):
            PythonApp(in_process=True, port=port, channel_credentials=wrong, deadline_ms=500).__enter__()


def test_a_header_of_ofrep(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    access = guarded.access["evaluate"]
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", access.ca)
    url = f"https://127.0.0.1:{guarded.server.ofrep_port}"
    for token, shown in ((access.token, (True, None)), (guarded.wrong.token, (False, ErrorCode.GENERAL))):
        with OfrepApp(url, headers_factory=lambda token=token: {"Authorization": f"Bearer {token}"}) as app:
            found = app.evaluate("boolean", FLAG, False)
            assert (found.value, found.error_code) == shown


def test_an_anonymous_listener(guarded: Guarded) -> None:
    with PythonApp(port=guarded.server.port, tls=True, cert_path=guarded.access["none"].ca) as app:
        assert app.value(FLAG, False, "boolean") is True
