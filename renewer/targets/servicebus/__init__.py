"""Service Bus: sessions held and renewed over few AMQP connections, and message locks renewed by their tokens."""

from renewer.targets.servicebus.credentials import (
    CountedTokens,
    NamespaceCredential,
    ReadySignature,
    SharedAccessKey,
    token_provider,
)
from renewer.targets.servicebus.locktokens import parse_lock_token
from renewer.targets.servicebus.options import NamespaceOptions
from renewer.targets.servicebus.target import ServiceBusTarget

__all__ = [
    "CountedTokens",
    "NamespaceCredential",
    "NamespaceOptions",
    "ReadySignature",
    "ServiceBusTarget",
    "SharedAccessKey",
    "parse_lock_token",
    "token_provider",
]
