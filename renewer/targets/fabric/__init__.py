"""Microsoft Fabric: long-running operations and job instances, submitted or adopted, followed to their result."""

from renewer.targets.fabric.options import DEFAULT_BASE_URL, DEFAULT_SCOPE, FabricOptions
from renewer.targets.fabric.requests import Adopt, Submit, parse_adopt, parse_submit
from renewer.targets.fabric.target import FabricTarget
from renewer.targets.fabric.tickets import Ticket

__all__ = [
    "DEFAULT_BASE_URL",
    "DEFAULT_SCOPE",
    "Adopt",
    "FabricOptions",
    "FabricTarget",
    "Submit",
    "Ticket",
    "parse_adopt",
    "parse_submit",
]
