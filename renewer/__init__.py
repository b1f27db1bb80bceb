"""renewer keeps Azure Service Bus locks alive and follows long-running operations to their end."""

__version__ = "0.1.0"
