"""A Service Bus over plain AMQP that misbehaves on demand.

The model (`Namespace` and what it is made of) knows neither I/O nor a clock; `Broker` puts it behind TCP. There are no
transactions, no rules of subscriptions, no forwarding, and messages do not expire.
"""

from renewer.emulator.broker.counters import BrokerCounters
from renewer.emulator.broker.namespace import Namespace
from renewer.emulator.broker.refusals import RefusedError
from renewer.emulator.broker.server import Broker
from renewer.emulator.broker.specs import BrokerOptions, Linger, QueueSpec

__all__ = ["Broker", "BrokerCounters", "BrokerOptions", "Linger", "Namespace", "QueueSpec", "RefusedError"]
