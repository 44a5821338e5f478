"""Why Redis cannot be used: it is not there, or it answers and refuses."""

from __future__ import annotations

import re
from typing import NamedTuple

from redis.exceptions import AuthenticationError, RedisError, ResponseError

from flagsvc.adapters.causes import bounded, connection_cause

UNAVAILABLE, REFUSES, CREDENTIALS = "cache_unavailable", "cache_refuses_writes", "cache_refuses_credentials"
_CODE = re.compile(r"-?\b([A-Z]{2,}[A-Z0-9]*) (.*)", re.DOTALL)
_SCRIPT = re.compile(r"^.*@user_script:? ?\d+: ", re.DOTALL)
_PIPELINE = re.compile(r"^Command # \d+ \(.*\) of pipeline caused error: (?:\(['\"])?(.*?)(?:['\"],?\))?$", re.DOTALL)
_ARGUMENTS = re.compile(r",? with args beginning with.*", re.DOTALL)
_RIGHTS = "grant the user the commands, keys and channel that docs/operating.md lists"
_CLUSTER = "use a Redis that is not in cluster mode"
_CURES = {
    "READONLY": "point the cache URL at the primary, or promote this replica",
    "OOM": "raise maxmemory, or set maxmemory-policy to volatile-ttl or allkeys-lru",
    "MISCONF": "free the disk that Redis saves to, or turn its snapshots off: nothing of flagsvc needs them",
    "NOPERM": _RIGHTS,
    "NOAUTH": "put the user and the password into the cache URL",
    "WRONGPASS": "correct the user and the password in the cache URL",
    "LOADING": "wait until Redis has read its data",
    "MASTERDOWN": "wait until the replica has its primary again, or point the cache URL at the primary",
    "NOREPLICAS": "connect the replicas that min-replicas-to-write asks for",
    "BUSY": "end the script that another program runs: SCRIPT KILL",
    "MOVED": _CLUSTER,
    "ASK": _CLUSTER,
    "CROSSSLOT": _CLUSTER,
    "CLUSTERDOWN": _CLUSTER,
}
_WITHOUT_CODE = (
    ("the user executing the script", "NOPERM"),
    ("acl failure", "NOPERM"),
    ("max number of clients", "MAXCLIENTS"),
    ("unknown command", "DISABLED"),
    ("invalid password", "WRONGPASS"),
)
_MORE_CURES = {
    "MAXCLIENTS": "raise maxclients, or close connections of other programs",
    "DISABLED": "do not rename or disable the command: docs/operating.md lists those that flagsvc needs",
}
_FIRST_WORDS = {"MOVED", "ASK"}  # the rest names a slot and an address
_PROBLEMS = {"NOAUTH": CREDENTIALS, "WRONGPASS": CREDENTIALS, "LOADING": UNAVAILABLE, "BUSY": UNAVAILABLE}
"""Those that are no refusal of writes; the last two end by themselves."""


class RedisCause(NamedTuple):
    """Why Redis cannot be used. `problem`: its name in a status; equal causes are logged once."""

    problem: str
    text: str
    cure: str

    @property
    def is_refusal(self) -> bool:
        """Whether Redis answers, and refuses: it will do so until somebody changes something."""
        return self.problem != UNAVAILABLE


def redis_cause(error: BaseException) -> RedisCause:
    """Return why a command failed; a refusal in the server's own words."""
    status = getattr(error, "status_code", None)
    if isinstance(error, ResponseError | AuthenticationError) or isinstance(status, str):
        said = _ARGUMENTS.sub("", _SCRIPT.sub("", _PIPELINE.sub(r"\1", str(error)))).strip()
        return _refusal(f"{status} {said}" if status not in (None, "ERR") else said)
    connecting = connection_cause(error)
    if connecting is not None:
        return RedisCause(UNAVAILABLE, *connecting)
    text = f"{type(error).__name__}: {bounded(str(error))}" if isinstance(error, RedisError) else type(error).__name__
    return RedisCause(UNAVAILABLE, text, "check that the cache URL names a Redis server, and its log")


def _refusal(said: str) -> RedisCause:
    found = _CODE.match(said)
    code = found[1] if found else ""
    if code not in _CURES:
        code = next((code for words, code in _WITHOUT_CODE if words in said.lower()), code)
    if found and code in _FIRST_WORDS:
        said = f"{code}: this Redis is a member of a cluster"
    cure = _CURES.get(code) or _MORE_CURES.get(code) or "see what Redis says, and docs/operating.md"
    words = bounded(said.removeprefix("-")).removesuffix(".")
    return RedisCause(_PROBLEMS.get(code, REFUSES), f"Redis refuses: {words}", cure)
