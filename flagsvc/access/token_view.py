"""The tokens and denials that this replica enforces, in memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import NamedTuple

import structlog

from flagsvc.access.compiled_tokens import Known, Tokens, compiled
from flagsvc.access.denial_view import DenialView
from flagsvc.core.access.denials import Denial
from flagsvc.core.access.identity import Identity
from flagsvc.core.access.records import Record
from flagsvc.core.access.tokens import MAX_TOKENS, Token
from flagsvc.ports import NEVER, SavedAccess, StoredTokens

MAX_REVOKED = 10 * MAX_TOKENS
"""Ids of revoked tokens that are remembered, also when the store has them no more."""

log = structlog.get_logger(__name__)


class Prepared(NamedTuple):
    """What a load has read: each token compiled, and the denials."""

    known: Known
    denials: Sequence[Denial]


class TokenView:
    """Every token, as last read, and every denial.

    `revision`: every change up to it is enforced; -1 before the first load.
    `verified_at`: the moment of `time.monotonic()` as of which it is known to equal the store.
    `version` grows with every change of what is held.
    """

    def __init__(self) -> None:
        self.tokens: Mapping[str, Token] = {}
        """Those of the store, and those of the file."""
        self.stored: Mapping[str, Token] = {}
        self.filed: Mapping[str, Token] = {}
        """Tokens of the file that count: with an id that the store does not have, and that was not revoked."""
        self._known: Known = {}
        self._file: Known = {}
        self._visible: Known = {}
        """Those whose callers are in `_identities`."""
        self.denials = DenialView()
        self.revision, self.version, self.verified_at = -1, 0, NEVER
        self.highest = 0
        """The highest revision that was ever enforced here: a restored store goes back to a lower one."""
        self.returned: frozenset[str] = frozenset()
        """Ids of tokens that are revoked, as this replica knows, and that the store takes for valid again."""
        self.used: set[str] = set()
        """Ids of tokens that were used since `take_used`."""
        self.recognized: dict[bytes, Identity] = {}
        """Callers that were found since the last change, those with JWTs too, by the digest of what they send."""
        self.ticket_key = b""
        """What tickets are sealed with; empty until it is read."""
        self._identities: dict[bytes, Identity] = {}
        self._revoked: OrderedDict[str, None] = OrderedDict()
        self._is_restored = False
        self._applied: dict[str, tuple[Token, float]] = {}

    @property
    def is_loaded(self) -> bool:
        """Whether the tokens were read once."""
        return self.revision >= 0

    @property
    def is_restored(self) -> bool:
        """Whether they are those of a snapshot: then they give the right to evaluate, and no other."""
        return self._is_restored and not self.is_loaded

    def is_revoked(self, token_id: str) -> bool:
        """Whether a token is known to be revoked, whatever the store says now."""
        return token_id in self._revoked

    def identity(self, key: bytes) -> Identity | None:
        """Return whom a token's digest stands for; also one that has expired."""
        return self._identities.get(key)

    def forget_recognized(self) -> None:
        """Look every caller up again. Call it when rights have changed that are not held here."""
        self.recognized = {}

    def take_used(self) -> set[str]:
        """Return the ids of the tokens that were used since this was last called."""
        used, self.used = self.used, set()
        if used:
            self.forget_recognized()  # so that a caller who calls again has used its token again
        return used

    def of_token(self, token_id: str) -> list[Identity]:
        """Return whom the secrets of a token stand for; also where one has expired."""
        token = self.tokens.get(token_id)
        found = (self._identities.get(bytes.fromhex(each.digest)) for each in token.secrets) if token else ()
        return [each for each in found if each is not None]

    def confirm(self, as_of: float) -> None:
        """Record that the store had nothing newer at a moment."""
        self.verified_at = max(self.verified_at, as_of)

    def prepared(self, stored: StoredTokens) -> Prepared:
        """Return what was read as it is held; for a thread. What is held already keeps its objects."""
        held = self.denials.all
        denials = [held[each.name] if held.get(each.name) == each else each for each in stored.denials]
        return Prepared(compiled(stored.tokens, self._known), denials)

    def hold(self, stored: StoredTokens, as_of: float, prepared: Prepared | None = None) -> bool:
        """Take what a load that began at `as_of` has read. Return whether anything changed."""
        known, denials = prepared or self.prepared(stored)
        # What was written here while the load was under way may not be in it.
        self._applied = {key: each for key, each in self._applied.items() if each[1] >= as_of}
        late = [token for token, _ in self._applied.values() if token.revision > stored.revision]
        known = {**known, **compiled(late, self._known)}
        self.revision, self.ticket_key = stored.revision, stored.ticket_key or self.ticket_key
        self.highest = max(self.highest, self.revision)
        self.confirm(as_of)
        denials_changed = self.denials.hold(denials, as_of, datetime.now(UTC))
        self.version += denials_changed
        return self._replace(known) or denials_changed

    def restore(self, saved: SavedAccess, known: Known) -> None:
        """Take what a snapshot has, until the store is read. Who was revoked or denied stays so after that, too.

        `known`: its tokens, compiled.
        """
        self._revoked = OrderedDict.fromkeys([*saved.revoked, *self._revoked])
        self.denials.remember(saved.denials)
        self._is_restored = True
        held = self._known if self.is_loaded else known
        self._known = {}  # what is known of revocations has changed, so each token is looked at again
        self._replace(held)

    def to_save(self) -> SavedAccess:
        """Return what a snapshot needs to know."""
        at = datetime.now(UTC)
        tokens = [each for each in self.stored.values() if each.is_usable and each.id not in self.returned]
        denials = [each for each in self.denials.all.values() if each.is_in_force(at)]
        return SavedAccess(tokens, denials, list(self._revoked))

    def apply(self, record: Record) -> None:
        """Take one token or denial that was written here."""
        if record.revision == self.revision + 1:
            self.revision = record.revision
        self.highest = max(self.highest, record.revision)
        if isinstance(record, Denial):
            self.denials.apply(record)
            self.version += 1
        else:
            self._applied[record.id] = record, time.monotonic()
            self._replace({**self._known, **compiled([record], self._known)})

    def hold_file(self, known: Known) -> None:
        """Take all tokens of the file."""
        self._file = known
        self._index()

    def _replace(self, known: Known) -> bool:
        if known == self._known:
            return False
        for name, each in known.items():
            if self._known.get(name) is not each and each.token.revoked_at is not None:
                self._revoked[name] = None
        while len(self._revoked) > MAX_REVOKED:
            self._revoked.popitem(last=False)
        returned = frozenset(name for name in known.keys() & self._revoked.keys() if known[name].token.is_usable)
        if returned - self.returned:
            detail = "The store has tokens that were revoked, as after a restore. They are refused; revoke them again."
            log.warning("revoked_tokens_returned", ids=sorted(returned)[:10], count=len(returned), detail=detail)
        self._known, self.returned = known, returned
        self._index()
        return True

    def _index(self) -> None:
        """Find callers by their digests. What has not changed is not looked at, since there may be thousands."""
        filed = {
            name: each for name, each in self._file.items() if name not in self._known and name not in self._revoked
        }
        visible = {**filed, **self._known}
        for name in self.returned:
            del visible[name]
        before, identities = self._visible, self._identities.copy()
        changed = [name for name, each in visible.items() if before.get(name) is not each]
        for name in chain(before.keys() - visible.keys(), changed):
            for key, identity in before[name].identities.items() if name in before else ():
                if identities.get(key) is identity:
                    del identities[key]
        for name in changed:
            for key, identity in visible[name].identities.items():
                if name not in filed or key not in identities:  # the store's tokens go before those of the file
                    identities[key] = identity
        self._visible, self._identities = visible, identities
        self.forget_recognized()
        self.stored, self.filed = Tokens(self._known), Tokens(filed)
        self.tokens = Tokens(self._known, filed)
        self.version += 1
