"""Servers that require authentication, for clients in any language: their tokens, certificates and flags."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
from cryptography.x509 import DNSName
from google.protobuf.field_mask_pb2 import FieldMask

from flagsvc.core.access.token_text import new_id, new_token
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.access.callers import made, stored
from tests.certificates import Authority, Signed
from tests.command_line import run_here
from tests.languages.asked import FLAGS, SERVER, SETTINGS, tls_of, until_ready
from tests.languages.clients import Access
from tests.replicas import Process

FLAG = "toggled"
CALLER = "shop.internal"
"""The name in the client certificate that has a role."""
ANONYMOUS = "grpc=evaluate@default;sync=read@default;ofrep=evaluate@default"


@dataclass(frozen=True)
class Guarded:
    """A server with FLAGSVC_AUTH=required. `sync`, its port for in-process providers, may want a client certificate.

    `access`: by role, what a caller who has it shows.
    """

    server: Process
    folder: Path
    authority: Authority
    access: dict[str, Access]

    @property
    def wrong(self) -> Access:
        """A token of the right form that the server does not know."""
        return replace(self.access["none"], token=new_token(new_id()))

    def signed(self, name: str) -> Signed:
        """A client certificate of the CA that the server knows, for this name."""
        return self.authority.sign(name, [DNSName(name)])

    def certified(self, name: str) -> Access:
        """What a caller with that certificate shows, and no token."""
        certificate, key = self.signed(name).put(self.folder, name)
        return replace(self.access["none"], certificate=str(certificate), key=str(key))

    def toggle(self, variant: str) -> None:
        """Change the flag's default variant, as an operator does."""
        credentials = grpc.composite_channel_credentials(
            self.authority.credentials(), grpc.access_token_call_credentials(self.access["write"].token)
        )
        request = pb.UpdateFlagRequest(
            flag=types.Flag(key=FLAG, default_variant=variant), update_mask=FieldMask(paths=["default_variant"])
        )
        with grpc.secure_channel(self.server.address, credentials) as channel:
            pb_grpc.FlagServiceStub(channel).UpdateFlag(request, timeout=15, wait_for_ready=True)


@contextmanager
def serving_guarded(folder: Path, *, anonymous: str = "", client_certificates: str = "") -> Iterator[Guarded]:
    """Serve one flag over TLS. `client_certificates`: the listener that requires them."""
    store, authority = f"sqlite:///{folder}/flags.db", Authority()
    file = folder / "flags.json"
    file.write_text(json.dumps({"flags": {FLAG: FLAGS["flags"][FLAG]}}))
    assert run_here("import", str(file), "--store", store).returncode == 0
    tokens = {role: made(role, "default") for role in ("evaluate", "read", "write")}
    asyncio.run(stored(store, *(token for token, _ in tokens.values())))
    tls, ca = tls_of(folder, authority)
    options = ["--store", store, "--auth", "required", *tls]
    settings = {**SETTINGS, **({"FLAGSVC_ANONYMOUS": anonymous} if anonymous else {})}
    if client_certificates:
        issuers = folder / "issuers.json"
        issuers.write_text(json.dumps({"certificates": [{"dns": CALLER, "grant": "read@default"}]}))
        options += ["--tls-client-ca", f"{client_certificates}={ca}"]
        settings["FLAGSVC_JWT_ISSUERS_FILE"] = str(issuers)
    access = {"none": Access(ca), **{role: Access(ca, text) for role, (_, text) in tokens.items()}}
    with SERVER(*options, **settings) as server:
        until_ready(server)
        yield Guarded(server, folder, authority, access)
