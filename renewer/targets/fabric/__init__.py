"""Microsoft Fabric: long-running operations and job instances, submitted or adopted, followed to their result."""

from renewer.targets.fabric.target import FabricTarget
from renewer.targets.fabric.tickets import Ticket

DEFAULT_BASE_URL = "https://api.fabric.microsoft.com/v1"
DEFAULT_SCOPE = "https://api.fabric.microsoft.com/.default"
"""The audience of tokens for Fabric."""

__all__ = ["DEFAULT_BASE_URL", "DEFAULT_SCOPE", "FabricTarget", "Ticket"]
