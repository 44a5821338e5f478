"""The Python client of flagsvc: `FlagClient` here is synchronous, the one in `flagsvc_client.aio` is for asyncio."""

from flagsvc_client._engine.model import Flag, Status
from flagsvc_client.access import Tls, TokenFile
from flagsvc_client.client_events import ClientEvent
from flagsvc_client.details import ErrorCode, EvaluationContext, EvaluationDetails, Reason, Source
from flagsvc_client.errors import FlagServiceError, Violation
from flagsvc_client.results import HistoryEntry, WriteLevel, WriteResult
from flagsvc_client.sync import FlagClient
from flagsvc_client.watch_events import Change, Snapshot

__all__ = [
    "Change",
    "ClientEvent",
    "ErrorCode",
    "EvaluationContext",
    "EvaluationDetails",
    "Flag",
    "FlagClient",
    "FlagServiceError",
    "HistoryEntry",
    "Reason",
    "Snapshot",
    "Source",
    "Status",
    "Tls",
    "TokenFile",
    "Violation",
    "WriteLevel",
    "WriteResult",
]

__version__ = "0.1.0"
