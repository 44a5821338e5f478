"""Follows the file while the server runs. A bad one changes nothing: what was read before it stays in use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import structlog

from flagsvc.access.compiled_tokens import Known, compiled
from flagsvc.adapters.files.small_files import Stamp, read_small, stamp_of
from flagsvc.background import BackgroundTasks, repeat
from flagsvc.ports import Problem
from flagsvc.replica import Replica
from flagsvc.settings import Settings
from flagsvc.telemetry import Sample
from flagsvc.tokens_file.entries import MAX_BYTES, BadTokensFile, tokens_in
from flagsvc.turns import off_loop
from flagsvc.urls import SettingsError

LOOK_S = 0.25
"""Seconds between two looks at the file: a token that is taken out is refused within a second."""
SETTING = "FLAGSVC_TOKENS_FILE"

log = structlog.get_logger(__name__)


def read(path: str, known: Known | None = None) -> Known:
    """Read the file; `known`: what was read before. Raises BadTokensFile, whose text is for its operator."""
    try:
        return compiled(tokens_in(path, read_small(path, MAX_BYTES)), known or {})
    except OSError as error:
        raise BadTokensFile(f"it cannot be read: {error.strerror or type(error).__name__}") from None


class TokensFile:
    """The tokens of a file. `use`: called with all of them when they have changed.

    Raises SettingsError if the file is not valid.
    """

    def __init__(self, path: str, use: Callable[[Known], None]) -> None:
        self._path, self._use = path, use
        self._stamp: Stamp = stamp_of(path)
        try:
            self._tokens = read(path)
        except BadTokensFile as error:
            raise SettingsError(f"{SETTING}: {path}: {error}") from None
        self.rejected = ""
        """Why the file's newest content is not used; empty if it is."""
        use(self._tokens)

    async def run(self) -> None:
        """Follow the file for ever."""
        await repeat(self.look, _pause, "tokens_file_failed")

    async def look(self) -> None:
        """Use the file's content if it has changed."""
        stamp = await off_loop(stamp_of, self._path)
        if stamp == self._stamp:
            return
        try:
            found = await off_loop(read, self._path, self._tokens)
        except BadTokensFile as error:
            if str(error) != self.rejected:
                log.error("tokens_file_rejected", file=self._path, cause=str(error), using="the one before it")  # noqa: TRY400  the text is complete
            self.rejected, self._stamp = str(error), stamp
            return
        self.rejected, self._stamp = "", stamp
        if found != self._tokens:
            self._tokens = found
            self._use(found)
            log.info("tokens_file_used", file=self._path, tokens=len(found))

    def problems(self) -> Iterator[Problem]:
        """Yield what does not work now."""
        if self.rejected:
            detail = f"the file of tokens is rejected; the one before it is used: {self.rejected}"
            yield Problem("tokens_file_rejected", detail, f"correct {self._path}; flagsvc doctor checks it")

    def samples(self) -> Iterator[Sample]:
        """Return the counts when Prometheus asks."""
        about = "1 while the newest content of the file of tokens is not valid and therefore not used."
        yield Sample("flagsvc_tokens_file_rejected", about, int(bool(self.rejected)))


class Following:
    """The file that the settings name, if they name one."""

    def __init__(self, settings: Settings, replica: Replica) -> None:
        self.file: TokensFile | None = None
        if not settings.tokens_file:
            return
        if replica.access is None:
            log.warning("tokens_file_not_used", detail=f"{SETTING} has no effect with FLAGSVC_AUTH=off.")
            return
        self.file = TokensFile(settings.tokens_file, replica.access.use_file)
        replica.more_problems.append(self.file.problems)

    def start(self, tasks: BackgroundTasks) -> None:
        """Begin to follow the file, as a task of the server's."""
        if self.file is not None:
            tasks.start(self.file.run(), "tokens-file")

    def samples(self) -> Iterator[Sample]:
        """Yield the counts for Prometheus."""
        if self.file is not None:
            yield from self.file.samples()


async def _pause() -> None:
    await asyncio.sleep(LOOK_S)
