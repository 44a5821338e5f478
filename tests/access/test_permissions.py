"""The table of permissions has a row for every RPC and route that is served, and for nothing else."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from typing import Any, cast

import pytest
from starlette.routing import Route, Router

from flagsvc import management
from flagsvc.api.common.permissions import METHODS, ROUTES, Rule
from flagsvc.api.common.selectors import Selectors
from flagsvc.api.connect.methods import methods_of
from flagsvc.api.flagd import evaluation, sync
from flagsvc.core.access.roles import Role
from flagsvc.core.errors import InvalidRequest
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc.grpc_listeners import OWN_FILES
from flagsvc.server import Server
from flagsvc.settings import Settings
from tests.access import test_walk

SELECTED = [("flagd-selector", "flagSetId=team")]


class Registered:
    """Records the paths of all methods that services register."""

    def __init__(self) -> None:
        self.paths: set[str] = set()

    def add_generic_rpc_handlers(self, handlers: tuple[Any, ...]) -> None:
        for handler in handlers:
            self.paths |= handler._method_handlers.keys()

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self.paths |= {f"/{service}/{name}" for name in handlers}


@pytest.fixture(scope="module")
async def server() -> Server:
    return Server(Settings(store_url="sqlite:///never-opened.db", port=0, sync_port=0, ofrep_port=0))


def test_every_rpc_that_is_registered_has_a_row_and_every_row_an_rpc(server: Server) -> None:
    registered = Registered()
    server.services.add_to(registered, server.listeners["grpc"])  # type: ignore[arg-type]
    assert registered.paths ^ METHODS.keys() == set()


def test_every_rpc_in_the_descriptors_is_registered(server: Server) -> None:
    described = methods_of((*OWN_FILES, *evaluation.FILES, sync.FILE))
    assert described.keys() <= METHODS.keys()


def test_every_route_has_a_row_and_every_row_a_route(server: Server) -> None:
    app = server._ofrep.app
    assert isinstance(app, Router)
    ofrep = {
        f"{m} {each.path}"
        for each in app.routes
        if isinstance(each, Route)
        for m in (each.methods or ())
        if m != "HEAD"
    }
    constants = (
        each.value for each in ast.walk(ast.parse(inspect.getsource(management))) if isinstance(each, ast.Constant)
    )
    paths = {f"GET {text}" for text in constants if isinstance(text, str) and text[:1] == "/" and text[1:].isalpha()}
    assert (ofrep | paths) ^ ROUTES.keys() == set()


def test_a_new_rpc_fails_these_tests_until_it_has_a_row_and_then_the_walk_until_it_has_one_there(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, name = pb_grpc.add_FlagServiceServicer_to_server, "/flagsvc.v1.FlagService/NewMethod"

    def add_more(servicer: Any, target: Any) -> None:
        add(servicer, target)
        target.add_registered_method_handlers("flagsvc.v1.FlagService", {"NewMethod": None})

    monkeypatch.setattr(pb_grpc, "add_FlagServiceServicer_to_server", add_more)
    with pytest.raises(AssertionError, match="NewMethod"):
        test_every_rpc_that_is_registered_has_a_row_and_every_row_an_rpc(server)
    test_walk.test_what_is_expected_is_written_down_for_every_rpc_and_route()
    monkeypatch.setitem(METHODS, name, Rule(Role.EVALUATE))  # type: ignore[misc]
    test_every_rpc_that_is_registered_has_a_row_and_every_row_an_rpc(server)
    with pytest.raises(AssertionError, match="NewMethod"):
        test_walk.test_what_is_expected_is_written_down_for_every_rpc_and_route()


def test_a_new_route_fails_these_tests_until_it_has_a_row_and_then_the_walk_until_it_has_one_there(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = server._ofrep.app
    assert isinstance(app, Router)
    monkeypatch.setattr(app, "routes", [*app.routes, Route("/ofrep/v1/new", lambda _: None, methods=["POST"])])
    with pytest.raises(AssertionError, match="ofrep/v1/new"):
        test_every_route_has_a_row_and_every_row_a_route(server)
    monkeypatch.setitem(ROUTES, "POST /ofrep/v1/new", Rule(Role.EVALUATE))  # type: ignore[misc]
    test_every_route_has_a_row_and_every_row_a_route(server)
    with pytest.raises(AssertionError, match="ofrep/v1/new"):
        test_walk.test_what_is_expected_is_written_down_for_every_rpc_and_route()


def test_only_probes_need_no_credential() -> None:
    free = {name for name, rule in {**METHODS, **ROUTES}.items() if rule.role is None}
    assert free == {
        "GET /healthz",
        "GET /readyz",
        *(f"/grpc.health.v1.Health/{name}" for name in ("Check", "List", "Watch")),
    }


def test_a_row_names_the_flag_set_wherever_the_request_can() -> None:
    """A request that has a field for a flag set, or a selector, is checked for it: no id goes past the check."""
    for path, method in methods_of((*OWN_FILES, *evaluation.FILES, sync.FILE)).items():
        rule, request = METHODS[path], cast("Any", method.request())
        fields = request.DESCRIPTOR.fields_by_name
        if "flag_set" in fields:
            request.flag_set = "team"
            assert _set_of(rule, request, []) == "team", path
        elif "flag" in fields:
            request.flag.flag_set = "team"
            assert _set_of(rule, request, []) == "team", path
        elif "segment" in fields:
            request.segment.flag_set = "team"
            assert _set_of(rule, request, []) == "team", path
        elif "selector" in fields:
            request.selector = "flagSetId=body"
            assert (_set_of(rule, request, []), _set_of(rule, request, SELECTED)) == ("body", "team"), path
        elif path.startswith(("/flagd.evaluation", "/schema")):
            assert (_set_of(rule, request, []), _set_of(rule, request, SELECTED)) == ("web", "team"), path
        else:
            assert rule.set_of is None, path
            assert rule.role in {Role.OPERATE, Role.READ, Role.ADMIN} or path.endswith("GetCaller"), path


def test_an_invalid_flag_set_is_refused_and_not_looked_up() -> None:
    with pytest.raises(InvalidRequest, match="flag_set"):
        _set_of(METHODS["/flagsvc.v1.FlagService/GetFlag"], pb.GetFlagRequest(flag_set="a\nb"), [])


def test_rules_that_leak_or_change_need_more_than_evaluate() -> None:
    own = "/flagsvc.v1.FlagService/"
    assert METHODS[own + "EvaluateFlag"].fields == {"explain": Role.READ, "as_of": Role.READ}
    assert METHODS[own + "BatchEvaluateFlags"].fields == {"as_of": Role.READ}
    weak = {name for name, rule in METHODS.items() if rule.role is Role.EVALUATE}
    assert {name for name in weak if name.startswith(own)} == {own + "EvaluateFlag", own + "BatchEvaluateFlags"}
    others = {name for name in weak if not name.startswith(own) and "/Resolve" not in name}
    assert {name.rpartition("/")[2] for name in others} == {"EventStream", "GetCaller"}


def _set_of(rule: Rule, request: Any, metadata: list[tuple[str, str]]) -> str:
    assert rule.set_of is not None
    return rule.set_of(request, metadata, Selectors("web"))
