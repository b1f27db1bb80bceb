"""The AMQP gateway: workers connect here with their own SDK, and the locks that they hold are kept.

`GatewayServer` is the door, `GatewayTarget` keeps the leases. Between a worker's connection and the one to the broker
that goes with it stands a `Relay`; what it sees of locks it tells a `ConnectionLedger`, which makes leases of it.
"""

from renewer.gateway.access import Doorman
from renewer.gateway.options import EntityPolicy, GatewayOptions, TcpAddress, UnixAddress, WorkerKey
from renewer.gateway.server import GatewayReadings, GatewayServer
from renewer.gateway.target import GatewayTarget

__all__ = [
    "Doorman",
    "EntityPolicy",
    "GatewayOptions",
    "GatewayReadings",
    "GatewayServer",
    "GatewayTarget",
    "TcpAddress",
    "UnixAddress",
    "WorkerKey",
]
