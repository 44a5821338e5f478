"""What web pages may do: evaluate where CORS is configured, and change nothing unless their origin is listed."""

from __future__ import annotations

import pytest

from tests.connect.asking import OWN, V1, Asked

TOGGLE, EVALUATE = f"{OWN}/ToggleFlag", f"{OWN}/EvaluateFlag"
ASKED_HEADERS = "connect-protocol-version,connect-timeout-ms,content-type,flagd-selector,x-grpc-web,x-user-agent"
LISTED, FOREIGN = "https://app.example", "https://evil.example"


async def _preflight(asked: Asked, path: str, origin: str) -> tuple[int, str | None]:
    headers = {"origin": origin, "access-control-request-method": "POST"}
    headers["access-control-request-headers"] = ASKED_HEADERS
    answer = await asked.http.options(f"/{path}", headers=headers)
    return answer.status_code, answer.headers.get("access-control-allow-origin")


async def test_pages_of_any_origin_evaluate_where_all_are_allowed(asked: Asked) -> None:
    assert await _preflight(asked, f"{V1}/ResolveAll", FOREIGN) == (200, "*")
    answer = await asked.post(f"{V1}/ResolveBoolean", {"flagKey": "boolean"}, origin=FOREIGN)
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "grpc-status" in answer.headers["access-control-expose-headers"]


async def test_for_flag_service_all_origins_are_none_but_the_listed(asked: Asked) -> None:
    assert (await _preflight(asked, TOGGLE, FOREIGN))[0] == 403
    refused = await asked.post(TOGGLE, {"flagKey": "boolean", "enabled": False}, origin=FOREIGN)
    assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
    assert "access-control-allow-origin" not in refused.headers
    assert (await asked.post(EVALUATE, {"flagKey": "boolean"}, origin="null")).status_code == 403
    assert (await asked.post(EVALUATE, {"flagKey": "boolean"})).json()["evaluation"]["enabled"] is True
    assert await _preflight(asked, TOGGLE, LISTED) == (200, LISTED)
    answer = await asked.post(EVALUATE, {"flagKey": "boolean"}, origin=LISTED)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, LISTED)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8013",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "[::1].evil.example",
        "[evil]:1",
        "[dead]:1",
        "evil.example:127.0.0.1",
        "0x7f.1",
        "flags.internal@evil.example",
    ],
)
async def test_a_name_that_was_rebound_to_this_address_reaches_no_flag_service(asked: Asked, host: str) -> None:
    refused = await asked.post(TOGGLE, {"flagKey": "boolean", "enabled": False}, host=host)
    assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
    page = await asked.post(TOGGLE, {"flagKey": "boolean", "enabled": False}, host=host, origin=f"http://{host}")
    assert page.status_code == 403
    evaluated = await asked.post(f"{V1}/ResolveBoolean", {"flagKey": "boolean"}, host=host)
    assert evaluated.json()["value"] is True, "providers call a service by its name"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8013", "[::1]:8013", "localhost", "LOCALHOST.:1", "flags.internal:8013"]
)
async def test_addresses_localhost_and_listed_names_do(asked: Asked, host: str) -> None:
    assert (await asked.post(EVALUATE, {"flagKey": "boolean"}, host=host)).status_code == 200


async def test_what_a_page_can_send_without_asking_first_is_never_served(asked: Asked) -> None:
    body = b'{"flagKey": "boolean", "enabled": false}'
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        assert (await asked.post(TOGGLE, body, content_type)).status_code == 415
    assert (await asked.http.get(f"/{TOGGLE}", params={"flagKey": "boolean"})).status_code == 405
