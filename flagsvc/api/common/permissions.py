"""What every RPC and every HTTP route needs: the only table of permissions.

A method that has no row is refused. `tests/access/test_permissions.py` walks the services and routes, and fails for
one without a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from flagsvc.api.common.callers import Metadata
from flagsvc.api.common.selectors import Selectors
from flagsvc.core.access.roles import Role
from flagsvc.core.validation import set_name

SetOf = Callable[[Any, Metadata, Selectors], str]
"""Returns the flag set that a call is about, from its message, metadata and listener's selectors. Raises
InvalidRequest."""


def by_field(path: str) -> SetOf:
    """Return the function for methods whose request names its flag set in a field, such as `flag.flag_set`."""
    read = attrgetter(path)
    return lambda request, _metadata, _selectors: set_name(read(request))


def by_selector(path: str = "") -> SetOf:
    """Return the function for methods with flagd's selector: in the header, else in the request's field, if any."""
    if not path:
        return lambda _request, metadata, selectors: selectors.of(metadata).flag_set
    read = attrgetter(path)
    return lambda request, metadata, selectors: selectors.of(metadata, read(request)).flag_set


@dataclass(frozen=True, slots=True)
class Rule:
    """What a method needs. `role` None: no credential at all.

    `set_of`: the flag set that a call is about; None where it is about none, or about all.
    `fields`: fields of the request that need more than `role` where they are set: texts, numbers or messages.
    """

    role: Role | None
    set_of: SetOf | None = None
    fields: Mapping[str, Role] = field(default_factory=dict)


_OPEN = Rule(None)
_OWN = "/flagsvc.v1.FlagService/"
_TOKENS = "/flagsvc.v1.TokenService/"
_ROLLOUTS = "/flagsvc.v1.RolloutService/"
_SCHEDULES = "/flagsvc.v1.ScheduleService/"
_SEGMENTS = "/flagsvc.v1.SegmentService/"
_SYNC = "/flagd.sync.v1.FlagSyncService/"
_FLAG_SET, _FLAG, _SELECTOR = by_field("flag_set"), by_field("flag.flag_set"), by_selector()
_EVALUATIONS = ("/flagd.evaluation.v1.Service/", "/flagd.evaluation.v2.Service/", "/schema.v1.Service/")
_RESOLVES = ("ResolveBoolean", "ResolveString", "ResolveFloat", "ResolveInt", "ResolveObject")

METHODS: Mapping[str, Rule] = {
    _OWN + "EvaluateFlag": Rule(Role.EVALUATE, _FLAG_SET, {"explain": Role.READ, "as_of": Role.READ}),
    _OWN + "BatchEvaluateFlags": Rule(Role.EVALUATE, _FLAG_SET, {"as_of": Role.READ}),
    _OWN + "GetFlag": Rule(Role.READ, _FLAG_SET),
    _OWN + "ListFlags": Rule(Role.READ, _FLAG_SET),
    _OWN + "ListFlagHistory": Rule(Role.READ, _FLAG_SET),
    _OWN + "ListFlagRevisions": Rule(Role.READ, _FLAG_SET),
    _OWN + "WatchFlags": Rule(Role.READ, _FLAG_SET),
    _OWN + "GetBucketing": Rule(Role.READ, _FLAG_SET),
    _OWN + "ToggleFlag": Rule(Role.TOGGLE, _FLAG_SET),
    _OWN + "CreateFlag": Rule(Role.WRITE, _FLAG),
    _OWN + "UpdateFlag": Rule(Role.WRITE, _FLAG),
    _OWN + "DeleteFlag": Rule(Role.WRITE, _FLAG_SET),
    _OWN + "RollbackFlag": Rule(Role.WRITE, _FLAG_SET),
    _OWN + "RollbackFlagSet": Rule(Role.WRITE, _FLAG_SET),
    _OWN + "SetBucketing": Rule(Role.WRITE, _FLAG_SET),
    _OWN + "GetStatus": Rule(Role.OPERATE),
    _OWN + "VerifyCache": Rule(Role.OPERATE),
    _OWN + "Resync": Rule(Role.OPERATE),
    _ROLLOUTS + "GetRollout": Rule(Role.READ, _FLAG_SET),
    **{_ROLLOUTS + f"{name}Rollout": Rule(Role.WRITE, _FLAG_SET) for name in ("Pause", "Resume", "Rollback")},
    **{_TOKENS + name: Rule(Role.ADMIN) for name in ("CreateToken", "GetToken", "ListTokens", "UpdateToken")},
    **{_TOKENS + name: Rule(Role.ADMIN) for name in ("RotateToken", "RevokeToken")},
    **{_TOKENS + name: Rule(Role.ADMIN) for name in ("DenyIdentity", "AllowIdentity", "ListDeniedIdentities")},
    _TOKENS + "GetCaller": Rule(Role.EVALUATE),
    **{_SCHEDULES + name: Rule(Role.READ, _FLAG_SET) for name in ("GetSchedule", "ListSchedules")},
    # The right to plan is looked at again when the change is due: flagsvc/access/planned_rights.py.
    **{_SCHEDULES + f"{verb}Schedule": Rule(Role.WRITE, _FLAG_SET) for verb in ("Create", "Update", "Execute")},
    _SCHEDULES + "CancelSchedule": Rule(Role.TOGGLE, _FLAG_SET),
    **{_SEGMENTS + name: Rule(Role.READ, _FLAG_SET) for name in ("GetSegment", "ListSegments")},
    **{_SEGMENTS + f"{verb}Segment": Rule(Role.WRITE, by_field("segment.flag_set")) for verb in ("Create", "Update")},
    _SEGMENTS + "DeleteSegment": Rule(Role.WRITE, _FLAG_SET),
    **{service + name: Rule(Role.EVALUATE, _SELECTOR) for service in _EVALUATIONS for name in _RESOLVES},
    **{service + "EventStream": Rule(Role.EVALUATE, _SELECTOR) for service in _EVALUATIONS},
    "/flagd.evaluation.v1.Service/ResolveAll": Rule(Role.EVALUATE, _SELECTOR),
    "/schema.v1.Service/ResolveAll": Rule(Role.EVALUATE, _SELECTOR),
    _SYNC + "SyncFlags": Rule(Role.READ, by_selector("selector")),
    _SYNC + "FetchAllFlags": Rule(Role.READ, by_selector("selector")),
    _SYNC + "GetMetadata": Rule(Role.READ),
    "/flagsvc.v1.AuditService/ListAuditEntries": Rule(Role.OPERATE, _FLAG_SET),
    # Probes have no credential, and learn nothing else.
    "/grpc.health.v1.Health/Check": _OPEN,
    "/grpc.health.v1.Health/List": _OPEN,
    "/grpc.health.v1.Health/Watch": _OPEN,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": Rule(Role.READ),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Rule(Role.READ),
}
"""Every RPC, by its path; over Connect and gRPC-Web too."""

ROUTES: Mapping[str, Rule] = {
    # Callers with the role public get what is public of it: see Identity.is_of_the_public.
    "POST /ofrep/v1/evaluate/flags": Rule(Role.PUBLIC, _SELECTOR),
    "POST /ofrep/v1/evaluate/flags/": Rule(Role.PUBLIC, _SELECTOR),
    "POST /ofrep/v1/evaluate/flags/{key:path}": Rule(Role.PUBLIC, _SELECTOR),
    "GET /ofrep/v1/sse": Rule(Role.PUBLIC, _SELECTOR),
    "GET /healthz": _OPEN,
    "GET /readyz": _OPEN,
    "GET /metrics": Rule(Role.OPERATE),
}
"""Every HTTP route that is no RPC, as its router has it."""
