"""Azure's long-running operations: status monitors, Location, provisioningState; submitted or adopted."""

from renewer.targets.azure.target import DEFAULT_BASE_URL, DEFAULT_SCOPE, AzureTarget
from renewer.targets.azure.tickets import Ticket

__all__ = ["DEFAULT_BASE_URL", "DEFAULT_SCOPE", "AzureTarget", "Ticket"]
