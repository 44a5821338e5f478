"""Changes of a flag by the names of its fields."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypedDict, cast

from flagsvc_client._engine.model import WRITABLE, Flag, Status
from flagsvc_client.details import JsonValue
from flagsvc_client.results import WriteLevel


class FlagFields(TypedDict, total=False):
    """The fields that `set` takes. `status`: also as text, in any case. `targeting`: JsonLogic as text or as objects.

    None removes an optional field.
    """

    name: str
    description: str | None
    category: str
    status: Status | str
    config: JsonValue
    icon: str | None
    badge: str | None
    sort_order: int
    variants: Mapping[str, JsonValue]
    default_variant: str | None
    targeting: str | Mapping[str, JsonValue] | None
    evaluators: Mapping[str, str]
    metadata: Mapping[str, JsonValue]
    owner: str | None
    expires_at: datetime | None
    rollout: Mapping[str, JsonValue] | None
    prerequisites: Sequence[Mapping[str, JsonValue]] | None


class WriteOptions(TypedDict, total=False):
    """What every write of flags takes.

    `on_behalf_of`: for whom; who writes the server knows from the client's token.
    `reason`: for the history. `wait_for`: how far the change is to spread before the call returns, up to
    `wait_timeout_s`, by default 5 seconds. A server without authentication takes `on_behalf_of` as the author.
    `validate_only`: only check the write; the result is what would be stored, with the revision of now.
    `request_id`: a name for this write, such as a UUID. Sent again within 24 hours, it gets the first one's answer.
    """

    reason: str
    on_behalf_of: str
    wait_for: WriteLevel | None
    wait_timeout_s: float | None
    validate_only: bool
    request_id: str


class FieldsAndOptions(FlagFields, WriteOptions, total=False):
    """What `set` takes."""


def split_options(given: FieldsAndOptions) -> tuple[dict[str, Any], WriteOptions]:
    """Return the flag's fields, and the write's options."""
    names = WriteOptions.__annotations__
    options = {name: value for name, value in given.items() if name in names}
    return {name: value for name, value in given.items() if name not in names}, cast("WriteOptions", options)


def flag_with(key: str, fields: Mapping[str, Any]) -> Flag:
    """Return a flag with these fields. Raises TypeError for a field that no flag has, ValueError for a bad status."""
    if not fields:
        raise TypeError(f"no field of flag {key!r} is given; such as status='ENABLED'")
    for name in fields:
        if name not in WRITABLE:
            similar = difflib.get_close_matches(name, WRITABLE, 1)
            meant = f"did you mean {similar[0]!r}?" if similar else f"it must be one of {', '.join(WRITABLE)}"
            raise TypeError(f"a flag has no field {name!r} that can be set; {meant}")
    values = dict(fields)
    if "status" in values:
        values["status"] = _status(values["status"])
    if isinstance(values.get("targeting"), Mapping):
        values["targeting"] = json.dumps(values["targeting"], ensure_ascii=False)
    return Flag(key=key, **values)


def _status(status: object) -> Status:
    try:
        return Status(str(status).upper())
    except ValueError:
        raise ValueError(f"status is {status!r}; it must be one of {', '.join(Status)}") from None
