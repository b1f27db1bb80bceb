"""A Service Bus (AMQP) and a Fabric (HTTP) that misbehave on demand: for demo, development and tests."""

from renewer.emulator.admin import EmulatorAdmin
from renewer.emulator.broker import Broker, BrokerCounters, BrokerOptions, Linger, QueueSpec
from renewer.emulator.broker.admin import broker_routes
from renewer.emulator.fabric import SCENARIO_HEADER, FabricEmulator, RequestRecord, Scenario
from renewer.emulator.faults import Fault, FaultAction, Faults, ScriptError
from renewer.emulator.http import build_http_app, serve_http
from renewer.emulator.pair import Emulator

__all__ = [
    "SCENARIO_HEADER",
    "Broker",
    "BrokerCounters",
    "BrokerOptions",
    "Emulator",
    "EmulatorAdmin",
    "FabricEmulator",
    "Fault",
    "FaultAction",
    "Faults",
    "Linger",
    "QueueSpec",
    "RequestRecord",
    "Scenario",
    "ScriptError",
    "broker_routes",
    "build_http_app",
    "serve_http",
]
