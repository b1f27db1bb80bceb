"""What survives the daemon: its leases, operations, their results, and callbacks still to be delivered.

Every registry is a `renewer.ports.Registry` and passes the same tests, `tests/registry/test_registry_conformance.py`.
"""

from renewer.registry.memory import MemoryRegistry
from renewer.registry.sqlite import SqliteRegistry

__all__ = ["MemoryRegistry", "SqliteRegistry"]
