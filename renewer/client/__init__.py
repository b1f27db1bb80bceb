"""For workers: hold sessions and message locks, and follow long-running operations, through a running daemon.

    from renewer.client import Client

    with Client() as client, client.session("orders", "customer-42") as session:
        ...

Needs httpx alone.
"""

from renewer.client.async_client import AsyncClient
from renewer.client.async_events import AsyncEventStream
from renewer.client.async_messages import AsyncReceivedMessage
from renewer.client.async_session import AsyncMessageLock, AsyncSession
from renewer.client.daemonstatus import Gateway, Pool, Status, Target
from renewer.client.errors import (
    AddressError,
    BadRequest,
    Conflict,
    LockAtRisk,
    LockError,
    LockLost,
    MessageSettled,
    NotAllowed,
    NotFound,
    ProtocolError,
    Refused,
    RemoteFailed,
    RenewerApiError,
    ServerError,
    SessionLost,
    Timeout,
    Unavailable,
)
from renewer.client.messages import InFlight, Message
from renewer.client.models import (
    Event,
    Lease,
    Loss,
    Operation,
    Owner,
    Page,
    Result,
    ResultInfo,
    SavedResult,
    Waited,
)
from renewer.client.options import LeaseFilter, LeaseOptions, OperationFilter, OperationOptions
from renewer.client.quantities import Duration
from renewer.client.sync_client import Client
from renewer.client.sync_events import EventStream
from renewer.client.sync_messages import ReceivedMessage
from renewer.client.sync_session import MessageLock, Session

__all__ = [
    "AddressError",
    "AsyncClient",
    "AsyncEventStream",
    "AsyncMessageLock",
    "AsyncReceivedMessage",
    "AsyncSession",
    "BadRequest",
    "Client",
    "Conflict",
    "Duration",
    "Event",
    "EventStream",
    "Gateway",
    "InFlight",
    "Lease",
    "LeaseFilter",
    "LeaseOptions",
    "LockAtRisk",
    "LockError",
    "LockLost",
    "Loss",
    "Message",
    "MessageLock",
    "MessageSettled",
    "NotAllowed",
    "NotFound",
    "Operation",
    "OperationFilter",
    "OperationOptions",
    "Owner",
    "Page",
    "Pool",
    "ProtocolError",
    "ReceivedMessage",
    "Refused",
    "RemoteFailed",
    "RenewerApiError",
    "Result",
    "ResultInfo",
    "SavedResult",
    "ServerError",
    "Session",
    "SessionLost",
    "Status",
    "Target",
    "Timeout",
    "Unavailable",
    "Waited",
]
