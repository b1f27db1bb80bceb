"""Service Bus: sessions held over few AMQP connections, their locks renewed on the same ones."""

from renewer.targets.servicebus.options import NamespaceOptions
from renewer.targets.servicebus.target import ServiceBusTarget

__all__ = ["NamespaceOptions", "ServiceBusTarget"]
