"""The Python client and the command line with TLS, certificates and tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import flagsvc_client
import grpc
import pytest
from flagsvc_client import ErrorCode, Tls, TokenFile, access, aio
from flagsvc_client.access import is_local
from flagsvc_client.openfeature import FlagsvcProvider
from openfeature.evaluation_context import EvaluationContext

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from tests.certificates import Authority, put
from tests.client.forms import FORMS, asked
from tests.tls.serving import Served, serving_mutual

TOKEN = "fsv_secret"
STRANGERS = Authority("strangers")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_mutual(tmp_path_factory.mktemp("served")) as found:
        yield found


@pytest.mark.parametrize("form", FORMS)
async def test_a_client_with_ca_and_certificate_is_served(form: str, served: Served) -> None:
    async with asked(form, served.process.address, tls=served.tls) as client:
        assert await client.is_enabled("a", timeout_s=5)
    async with asked(form, served.process.address, tls=served.tls, local=True) as client:
        assert await client.wait_ready(10)
        assert await client.is_enabled("a")


@pytest.mark.parametrize("form", FORMS)
async def test_a_client_without_them_says_why(form: str, served: Served) -> None:
    ca = served.tls.ca
    for tls in (Tls(ca=ca), Tls(ca=STRANGERS.put(served.folder, "strangers.crt")), Tls(ca=ca, server_name="elsewhere")):
        async with asked(form, served.process.address, tls=tls) as client:
            found = await client.details("a", default=True)
            assert (found.value, found.error_code) == (True, ErrorCode.PROVIDER_NOT_READY)


def test_the_provider_has_the_same_options(served: Served) -> None:
    provider = FlagsvcProvider(served.process.address, tls=served.tls, timeout_s=5)
    provider.initialize(EvaluationContext())
    assert provider.resolve_boolean_details("a", False).value
    provider.shutdown()


def test_options_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    for tls, said in ((Tls(certificate="a"), "needs both"), (True, "both credentials and tls")):
        with pytest.raises(ValueError, match=said):
            flagsvc_client.FlagClient(
                "a:1", tls=tls, credentials=grpc.ssl_channel_credentials() if tls is True else None
            )
    with pytest.raises(OSError, match="no-such"):
        flagsvc_client.FlagClient("a:1", tls=Tls(ca=tmp_path / "no-such"))


LOCAL = (
    "127.0.0.1:8013",
    "localhost:1",
    "[::1]:1",
    "unix:/a",
    "unix-abstract:a",
    "dns:///localhost:1",
    "dns:127.1.2.3:1",
)
LOCAL += ("ipv4:127.0.0.1:1,127.0.0.2:1", "ipv6:[::1]:1", "passthrough:///127.0.0.1:1")
REMOTE = ("flags:8013", "10.0.0.1:1", "dns:///flags:8013", "ipv4:127.0.0.1:1,10.0.0.1:1", "localhost.example:1")
REMOTE += ("dns://10.0.0.1/localhost:1", "xds:///localhost:1", "[::]:1", "0.0.0.0:1", "ipv6:[fe80::1]:1")


def test_which_targets_are_this_machine() -> None:
    assert [target for target in LOCAL if not is_local(target)] == []
    assert [target for target in REMOTE if is_local(target)] == []


@pytest.mark.parametrize("make", [flagsvc_client.FlagClient, aio.AsyncFlagClient, FlagsvcProvider])
def test_a_token_is_not_sent_to_others_in_plain_text(make: Callable[..., Any]) -> None:
    def made(target: str, **options: Any) -> None:
        client = make(target, token=TOKEN, **options)
        if isinstance(client, FlagsvcProvider):
            client.initialize(EvaluationContext())

    with pytest.raises(
        ValueError, match="would be sent to 'flags:8013' in plain text; use tls, or plaintext_token=Tr"
    ) as e:
        made("flags:8013")
    assert TOKEN not in str(e.value)
    if make is not FlagsvcProvider:
        for options in ({"tls": True}, {"plaintext_token": True}, {"credentials": grpc.ssl_channel_credentials()}):
            made("flags:8013", **options)
        for target in LOCAL:
            made(target)


@pytest.fixture(scope="module")
async def recording() -> AsyncIterator[tuple[str, list[Any]]]:
    """A service that records the authorization of each call."""
    seen: list[Any] = []

    class Service(pb_grpc.FlagServiceServicer):
        async def EvaluateFlag(self, request: Any, context: Any) -> pb.EvaluateFlagResponse:  # noqa: N802
            seen.append([value for name, value in context.invocation_metadata() if name == "authorization"])
            return pb.EvaluateFlagResponse(evaluation=pb.FlagEvaluation(flag_key="a", enabled=True))

        async def WatchFlags(self, request: Any, context: Any) -> AsyncIterator[pb.WatchFlagsResponse]:  # noqa: N802
            seen.append([value for name, value in context.invocation_metadata() if name == "authorization"])
            yield pb.WatchFlagsResponse(snapshot=pb.FlagSnapshot())

    server = grpc.aio.server()
    pb_grpc.add_FlagServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}", seen
    await server.stop(None)


@pytest.mark.parametrize("form", FORMS)
async def test_tokens_from_text_file_and_function(
    form: str, recording: tuple[str, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, seen = recording
    monkeypatch.setattr(access, "READ_EVERY_S", 0.0)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # which must not get it
    file = tmp_path / "token"
    file.write_text("from-file\n")
    counted = iter(range(10))
    for token, sent in (
        (TOKEN, TOKEN),
        (TokenFile(file), "from-file"),
        (lambda: f"number-{next(counted)}", "number-0"),
    ):
        seen.clear()
        async with asked(form, target, token=token) as client:
            assert await client.is_enabled("a", timeout_s=5)
            assert seen == [[f"Bearer {sent}"]]
            async for _ in client.watched():
                break
            assert seen[1] == [f"Bearer {'number-1' if sent == 'number-0' else sent}"]
    seen.clear()
    async with asked(form, target, token=TokenFile(file)) as client:
        for text in ("first", "second"):
            put(file, text.encode())
            assert await client.is_enabled("a", timeout_s=5)
    assert seen == [["Bearer first"], ["Bearer second"]]


@pytest.mark.parametrize("form", FORMS)
async def test_without_a_token_to_send_the_default_stands(
    form: str, recording: tuple[str, list[Any]], tmp_path: Path
) -> None:
    target, seen = recording
    seen.clear()

    def broken() -> str:
        raise RuntimeError(TOKEN)

    for token in (TokenFile(tmp_path / "none"), broken, lambda: "", lambda: "two words", lambda: "naïve", lambda: None):
        async with asked(form, target, token=token) as client:
            found = await client.details("a", default=True)
            assert (found.value, found.error_code) == (True, ErrorCode.PROVIDER_NOT_READY)
            assert found.error_message.startswith("there is no token to send: ")
            assert TOKEN not in found.error_message
    assert seen == []
    with pytest.raises(ValueError, match="the token is empty, or has characters that no token has"):
        flagsvc_client.FlagClient(target, token="a\nb")
