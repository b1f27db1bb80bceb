"""A Service Bus (AMQP) and a Fabric (HTTP) that misbehave on demand: for demo, development and tests."""

from renewer.emulator.broker import Broker, QueueSpec
from renewer.emulator.fabric import SCENARIO_HEADER, FabricEmulator, Scenario
from renewer.emulator.faults import Fault, FaultAction, Faults
from renewer.emulator.pair import Emulator

__all__ = [
    "SCENARIO_HEADER",
    "Broker",
    "Emulator",
    "FabricEmulator",
    "Fault",
    "FaultAction",
    "Faults",
    "QueueSpec",
    "Scenario",
]
