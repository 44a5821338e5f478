"""For threads. Generated from aio.py by `make sync-client`; do not edit."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TypeVar, Unpack

from flagsvc_client._engine.model import Flag
from flagsvc_client.default_values import expected_type
from flagsvc_client.definitions.sync import Definitions
from flagsvc_client.details import Context, EvaluationDetails, JsonValue
from flagsvc_client.flag_fields import WriteOptions
from flagsvc_client.results import WriteResult, details_of
from flagsvc_client.revisions.moments import FlagRevision, SetRollback, as_of, revision_of, set_rollback_of
from flagsvc_client.session import PAGE_SIZE
from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc_client.wire_contexts import put_context
from flagsvc_client.wire_flags import flag_of

T = TypeVar("T")


class Revisions(Definitions):
    """The part of a client that is about other moments. Every failed call raises a FlagServiceError.

    `at`: a revision of the flag set, or a time with its zone. A time to come has the definitions of now, with
    what is planned until then.
    """

    def flag_at(self, key: str, at: int | datetime) -> Flag:
        """Read the definition that a flag had. Raises FlagNotFound where it did not exist then."""
        request = pb.GetFlagRequest(flag_key=key, flag_set=self._session.flag_set, as_of=as_of(at))
        return flag_of((self._transport.call("GetFlag", request)).flag)

    def details_at(self, key: str, at: int | datetime, context: Context = None, *, default: T) -> EvaluationDetails[T]:
        """Evaluate a flag as of a moment; the default and an error code if it did not exist then."""
        request = pb.EvaluateFlagRequest(
            flag_key=key, flag_set=self._session.flag_set, expected_type=expected_type(default), as_of=as_of(at)
        )
        put_context(request, context)
        response = self._transport.call("EvaluateFlag", request, self._session.write_timeout_s)
        return details_of(response.evaluation, default)

    def batch_at(
        self, at: int | datetime, keys: Iterable[str] = (), context: Context = None
    ) -> dict[str, EvaluationDetails[JsonValue]]:
        """Evaluate several flags as of one moment; without keys all flags that the set had then."""
        request = pb.BatchEvaluateFlagsRequest(flag_keys=keys, flag_set=self._session.flag_set, as_of=as_of(at))
        put_context(request, context)
        response = self._transport.call("BatchEvaluateFlags", request, self._session.write_timeout_s)
        return {found.flag_key: details_of(found, None) for found in response.evaluations}

    def revisions(self, key: str, limit: int = 50) -> list[FlagRevision]:
        """List a flag's newest revisions, newest first."""
        found: list[FlagRevision] = []
        request = pb.ListFlagRevisionsRequest(flag_key=key, flag_set=self._session.flag_set)
        while len(found) < limit:
            request.page_size = min(limit - len(found), PAGE_SIZE)
            page = self._transport.call("ListFlagRevisions", request)
            found += map(revision_of, page.revisions)
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        return found

    def rollback(self, key: str, revision: int, *, etag: str = "", **options: Unpack[WriteOptions]) -> WriteResult:
        """Roll a flag back to the definition of a revision. Raises FlagNotFound, and FlagConflict for an old etag."""
        request = pb.RollbackFlagRequest(flag_key=key, flag_set=self._session.flag_set, revision=revision, etag=etag)
        return self._write("RollbackFlag", request, options)

    def rollback_set(self, revision: int, **options: Unpack[WriteOptions]) -> SetRollback:
        """Roll every flag of the set back to the definition of a revision, in one transaction."""
        session = self._session
        request = pb.RollbackFlagSetRequest(flag_set=session.flag_set, revision=revision)
        timeout_s = session.complete_write_request(request, **options)
        response = self._transport.call("RollbackFlagSet", request, timeout_s)
        done = set_rollback_of(response)
        if done.written is not None:
            session.note_written(done.written.revision)
        return done
