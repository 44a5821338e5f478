"""What others' authorization failed at in 2026, as tests here: each advisory, its kind, and the tests that hold it."""

from __future__ import annotations

import importlib
import inspect
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import grpc
import httpx
import pytest
from google.protobuf.descriptor import Descriptor

from flagsvc.access.authority import Authority
from flagsvc.access.sessions import Sessions
from flagsvc.access.tickets import KEY_BYTES
from flagsvc.api.common.gate import Check, check_of
from flagsvc.api.common.permissions import METHODS
from flagsvc.api.connect.methods import methods_of
from flagsvc.core.access import decision
from flagsvc.core.access.roles import Role
from flagsvc.core.access.token_text import new_id, new_token
from flagsvc.generated.flagsvc.v1 import audit_service_pb2 as audit_pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import rollout_service_pb2 as rollout_pb
from flagsvc.generated.flagsvc.v1 import rollout_service_pb2_grpc as rollout_pb_grpc
from flagsvc.generated.flagsvc.v1 import schedule_service_pb2 as plans
from flagsvc.generated.flagsvc.v1 import schedule_service_pb2_grpc as plans_grpc
from flagsvc.generated.flagsvc.v1 import segment_service_pb2 as segments
from flagsvc.generated.flagsvc.v1 import segment_service_pb2_grpc as segments_grpc
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.grpc_listeners import OWN_FILES
from flagsvc.server import Server
from tests.access.callers import Headers, bearer, guarded, made, stored
from tests.ofrep.asking import FLAGS_PATH
from tests.replicas import Client


class Advisory(NamedTuple):
    name: str
    kind: str
    tests: tuple[str, ...]


HERE = "test_advisories"
ADVISORIES = (
    Advisory(
        "OpenFlagr CVE-2026-0650",
        "a form of the path that the check does not know goes past it, such as /health/../flags",
        ("test_gate.test_no_form_of_a_path_goes_past_the_check", "test_raw_requests.test_what_a_head_of_http1_reaches"),
    ),
    Advisory(
        "Unleash CVE-2026-77426",
        "a permission is asked for and the answer not awaited; ids are not bound to the project of the address",
        (
            f"{HERE}.test_nothing_that_decides_can_be_left_unawaited",
            f"{HERE}.test_a_request_names_one_flag_set_and_the_check_reads_it",
            "test_gate.test_ids_of_another_set_are_checked_wherever_a_request_can_name_one",
        ),
    ),
    Advisory(
        "Unleash CVE-2026-77425",
        "ids in the body are of another project, and what was done with them is not in the audit log",
        (
            "test_gate.test_ids_of_another_set_are_checked_wherever_a_request_can_name_one",
            f"{HERE}.test_no_write_goes_past_the_audit",
        ),
    ),
    Advisory(
        "Unleash CVE-2026-76910",
        "a copy, or an answer to a write, shows what the caller may not read",
        (
            f"{HERE}.test_a_request_names_one_flag_set_and_the_check_reads_it",
            f"{HERE}.test_no_write_shows_what_its_caller_may_not_read",
        ),
    ),
    Advisory(
        "flagd CVE-2026-31866",
        "a body without an end is read for anybody",
        ("test_gate.test_a_caller_is_refused_before_anything_of_the_body_is_read",),
    ),
    Advisory(
        "GrowthBook #6673",
        "an object where a text belongs becomes an operator of the database; cookies are read as JSON",
        (
            f"{HERE}.test_an_object_in_place_of_a_text_is_refused",
            f"{HERE}.test_a_text_that_looks_like_an_operator_is_a_text",
            "test_gate.test_a_credential_is_read_from_two_headers",
        ),
    ),
    Advisory(
        "GrowthBook #6131",
        "keys are made by a random generator that can be predicted",
        (f"{HERE}.test_secrets_come_from_the_system", "test_tokens.test_a_token_has_its_id_and_256_random_bits"),
    ),
)


@pytest.mark.parametrize("advisory", ADVISORIES, ids=lambda each: each.name)
def test_each_is_held_by_a_test(advisory: Advisory) -> None:
    for name in advisory.tests:
        module, _, test = name.partition(".")
        assert callable(getattr(importlib.import_module(f"tests.access.{module}"), test)), name


def test_nothing_that_decides_can_be_left_unawaited() -> None:
    """What is not async cannot be forgotten to be awaited; mypy's `unused-awaitable` finds the rest."""
    decides = [
        *(decision.authorize, decision.check_grant, check_of, Check.admit, Check.permit, Check.holder_of, Check.narrow),
        *(Authority.identify, Authority.recheck, Authority.current, Authority.check_known, Sessions.check_all),
    ]
    assert [each for each in decides if inspect.iscoroutinefunction(each)] == []
    assert inspect.signature(decision.authorize).return_annotation == "None", "it raises, so no answer can be ignored"


def test_a_request_names_one_flag_set_and_the_check_reads_it() -> None:
    """A copy from one set into another would need two. That it is read, tests/access/test_permissions.py holds.

    A schedule repeats it in its own fields; another one there is refused (tests/schedules/test_service.py).
    """
    repeated = {"flag_set", "schedule.flag_set", "schedule.patch.flag_set"}

    def paths(message: Descriptor, depth: int = 0) -> list[str]:
        inner = (each for each in message.fields if each.message_type is not None and depth < 2)
        own = [each.name for each in message.fields if "flag_set" in each.name and each.name != "flag_sets"]
        return own + [f"{each.name}.{path}" for each in inner for path in paths(each.message_type, depth + 1)]

    for path, method in methods_of(OWN_FILES).items():
        found = paths(method.request.DESCRIPTOR)
        assert len(found) <= 1 or (set(found) == repeated and "ScheduleService" in path), path


class Served:
    """A server with a flag in the set `mine` and one in `theirs`, and callers for the first."""

    def __init__(self, client: Client, server: Server, http: httpx.AsyncClient) -> None:
        self.client, self.server, self.http = client, server, http
        self.root: Headers = ()
        self.mine: Headers = ()
        self.mine_id = ""

    async def refusal(self, method: str, request: Any, headers: Headers) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(self.client.stub, method)(request, metadata=headers, timeout=5)
        return caught.value


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    url = f"sqlite:///{tmp_path_factory.mktemp('advisories')}/flags.db"
    (root, root_text), (mine, text) = made("admin"), made("write", "mine")
    await stored(url, root, mine)
    async with (
        guarded(url, ofrep_port=0) as (client, server),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=5) as http,
    ):
        found = Served(client, server, http)
        found.root, found.mine, found.mine_id = bearer(root_text), bearer(text), mine.id
        for flag_set in ("mine", "theirs"):
            flag = types.Flag(
                key="a", flag_set=flag_set, description=f"of {flag_set}", targeting='{"if": [true, "on"]}'
            )
            await client.stub.CreateFlag(pb.CreateFlagRequest(flag=flag), metadata=found.root, timeout=5)
        yield found


ROLLOUT = types.Rollout(from_variant="off", to_variant="on", points=[{"time": {"seconds": 1_800_000_000}, "share": 5}])
WRITES: dict[str, Any] = {
    "CreateFlag": pb.CreateFlagRequest(flag=types.Flag(key="b", flag_set="mine", rollout=ROLLOUT)),
    "PauseRollout": rollout_pb.PauseRolloutRequest(flag_key="b", flag_set="mine"),
    "ResumeRollout": rollout_pb.ResumeRolloutRequest(flag_key="b", flag_set="mine"),
    "RollbackRollout": rollout_pb.RollbackRolloutRequest(flag_key="b", flag_set="mine"),
    "UpdateFlag": pb.UpdateFlagRequest(
        flag=types.Flag(key="b", flag_set="mine", name="B"), update_mask={"paths": ["name"]}
    ),
    "ToggleFlag": pb.ToggleFlagRequest(flag_key="b", flag_set="mine", enabled=True),
    "RollbackFlag": pb.RollbackFlagRequest(flag_key="b", flag_set="mine", revision=3),
    "DeleteFlag": pb.DeleteFlagRequest(flag_key="b", flag_set="mine"),
    "RollbackFlagSet": pb.RollbackFlagSetRequest(flag_set="mine", revision=6),
    "SetBucketing": pb.SetBucketingRequest(flag_set="mine", bucketing=3, force=True),
    "CreateSegment": segments.CreateSegmentRequest(
        segment=segments.Segment(name="s", flag_set="mine", rule='{"!":true}')
    ),
    "UpdateSegment": segments.UpdateSegmentRequest(
        segment=segments.Segment(name="s", flag_set="mine", rule='{"!":false}'), update_mask={"paths": ["rule"]}
    ),
    "DeleteSegment": segments.DeleteSegmentRequest(name="s", flag_set="mine"),
}
"""Every RPC that changes a flag set, in an order in which each has something to change."""
PLAN = plans.Schedule(
    flag_key="planned", patch=types.Flag(owner="b"), update_mask={"paths": ["owner"]}, local_time="2030-12-01T09:00"
)
PLANS: tuple[tuple[str, Callable[[str], Any]], ...] = (
    ("CreateSchedule", lambda _: plans.CreateScheduleRequest(flag_set="mine", schedule=PLAN)),
    (
        "UpdateSchedule",
        lambda i: plans.UpdateScheduleRequest(
            flag_set="mine",
            schedule=plans.Schedule(id=i, local_time="2031-12-01T09:00"),
            update_mask={"paths": ["local_time"]},
        ),
    ),
    ("ExecuteSchedule", lambda i: plans.ExecuteScheduleRequest(flag_set="mine", id=i)),
    ("CreateSchedule", lambda _: plans.CreateScheduleRequest(flag_set="mine", schedule=PLAN)),
    ("CancelSchedule", lambda i: plans.CancelScheduleRequest(flag_set="mine", id=i)),
)
"""Those that plan changes, each with its request for the id of the schedule made last."""


async def test_no_write_goes_past_the_audit(served: Served) -> None:
    changing = {path.rpartition("/")[2] for path, rule in METHODS.items() if rule.role in {Role.TOGGLE, Role.WRITE}}
    assert changing == WRITES.keys() | {name for name, _ in PLANS}
    audit = served.client.channel.unary_unary(
        "/flagsvc.v1.AuditService/ListAuditEntries",
        audit_pb.ListAuditEntriesRequest.SerializeToString,
        audit_pb.ListAuditEntriesResponse.FromString,
    )
    rollouts = rollout_pb_grpc.RolloutServiceStub(served.client.channel)
    stubs: dict[str, Any] = {n: rollouts if n.endswith("Rollout") else served.client.stub for n in WRITES}
    stubs |= dict.fromkeys(
        (name for name in WRITES if name.endswith("Segment")), segments_grpc.SegmentServiceStub(served.client.channel)
    )
    stubs |= dict.fromkeys(dict(PLANS), plans_grpc.ScheduleServiceStub(served.client.channel))
    planned = pb.CreateFlagRequest(flag=types.Flag(key="planned", flag_set="mine"))
    await served.client.stub.CreateFlag(planned, metadata=served.mine, timeout=5)
    schedule_id = ""
    for name, build in (*((name, lambda _, request=request: request) for name, request in WRITES.items()), *PLANS):
        before = len((await audit(audit_pb.ListAuditEntriesRequest(), metadata=served.root, timeout=5)).entries)
        answer = await getattr(stubs[name], name)(build(schedule_id), metadata=served.mine, timeout=5)
        schedule_id = answer.schedule.id if name.endswith("Schedule") else ""
        entries = (await audit(audit_pb.ListAuditEntriesRequest(), metadata=served.root, timeout=5)).entries
        assert len(entries) > before, name
        found = entries[0].actor, entries[0].flag_set, entries[0].outcome
        assert found == (f"token:{served.mine_id}", "mine", audit_pb.AUDIT_OUTCOME_DONE), name


async def test_no_write_shows_what_its_caller_may_not_read(served: Served) -> None:
    flag = types.Flag(key="a", flag_set="theirs", description="mine now")
    for name, request in {
        "CreateFlag": pb.CreateFlagRequest(flag=flag),
        "UpdateFlag": pb.UpdateFlagRequest(flag=flag, update_mask={"paths": ["description"]}),
        "ToggleFlag": pb.ToggleFlagRequest(flag_key="a", flag_set="theirs", enabled=True),
        "DeleteFlag": pb.DeleteFlagRequest(flag_key="a", flag_set="theirs"),
        "RollbackFlag": pb.RollbackFlagRequest(flag_key="a", flag_set="theirs", revision=1),
        "RollbackFlagSet": pb.RollbackFlagSetRequest(flag_set="theirs", revision=1, validate_only=True),
    }.items():
        error = await served.refusal(name, request, served.mine)
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED, name
        assert "of theirs" not in f"{error.details()}{error.trailing_metadata()}"
    rule = types.Flag(key="copy", flag_set="mine", targeting='{"$ref": "a"}')
    assert (await served.refusal("CreateFlag", pb.CreateFlagRequest(flag=rule), served.mine)).code() is (
        grpc.StatusCode.INVALID_ARGUMENT
    ), "a rule refers to nothing outside of its own flag"


OPERATORS: tuple[Any, ...] = ({"$ne": ""}, {"$gt": ""}, {"$regex": ".*"}, ["a"], {"$where": "1"}, True, 1)


@pytest.mark.parametrize("value", OPERATORS, ids=str)
async def test_an_object_in_place_of_a_text_is_refused(served: Served, value: Any) -> None:
    for path, fields in (
        ("flagsvc.v1.FlagService/GetFlag", ("flagKey", "flagSet")),
        ("flagsvc.v1.FlagService/DeleteFlag", ("flagKey", "flagSet", "etag")),
        ("flagsvc.v1.TokenService/GetToken", ("id",)),
        ("flagsvc.v1.TokenService/RevokeToken", ("id", "etag")),
        ("flagsvc.v1.AuditService/ListAuditEntries", ("actor", "action", "flagSet", "pageToken")),
    ):
        for field in fields:
            body = {"flagKey": "a", "flagSet": "mine", field: value} if "Flag" in path else {field: value}
            answer = await served.http.post(f"/{path}", json=body, headers=dict(served.root))
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument"), (path, field)
    cookie = {"cookie": 'auth={"$ne": ""}; token={"id": {"$gt": ""}}'}
    assert (await served.http.post("/flagsvc.v1.FlagService/GetFlag", json={}, headers=cookie)).status_code == 401


async def test_a_text_that_looks_like_an_operator_is_a_text(mongo_database_url: str) -> None:
    root, text = made("admin")
    await stored(mongo_database_url, root)
    async with (
        guarded(mongo_database_url, ofrep_port=0) as (client, server),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.ofrep_port}", timeout=5) as http,
    ):
        flag = types.Flag(key="a", status=types.FLAG_STATUS_ENABLED)
        await client.stub.CreateFlag(pb.CreateFlagRequest(flag=flag), metadata=bearer(text), timeout=5)
        for value in ('{"$ne": ""}', "$ne", "$where", ".*", "a$", '{"$gt": null}'):
            for request in (
                pb.GetFlagRequest(flag_key=value),
                pb.DeleteFlagRequest(flag_key=value),
                pb.DeleteFlagRequest(flag_key="a", flag_set=value),
                pb.ToggleFlagRequest(flag_key=value, enabled=False),
            ):
                name = type(request).__name__.removesuffix("Request")
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await getattr(client.stub, name)(request, metadata=bearer(text), timeout=5)
                assert caught.value.code() is grpc.StatusCode.NOT_FOUND, request
            history = pb.ListFlagHistoryRequest(flag_key=value)
            assert not (await client.stub.ListFlagHistory(history, metadata=bearer(text), timeout=5)).entries
            answer = await http.post(f"{FLAGS_PATH}/{quote(value, safe='')}", headers=dict(bearer(text)))
            assert answer.status_code == 404
        assert (await client.stub.GetFlag(pb.GetFlagRequest(flag_key="a"), metadata=bearer(text), timeout=5)).flag


def test_secrets_come_from_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    made_texts = []
    for _ in range(2):
        random.seed(7)
        made_texts += [new_token("abcABC012345"), new_id()]
    assert len(set(made_texts)) == len(made_texts)
    root = Path(inspect.getfile(Server)).parent
    drawn = [path for path in root.rglob("*.py") if "import random" in path.read_text()]
    keys = {"access", "core/access", "issuers/tokens.py", "tokens_file", "api/token_service"}
    assert [path for path in drawn if any(str(path.relative_to(root)).startswith(each) for each in keys)] == []
    assert KEY_BYTES * 8 == 512
