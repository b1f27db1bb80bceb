"""Microsoft Fabric's long-running operations over HTTP, answering as scripted, in the shapes of recorded traffic."""

from renewer.emulator.fabric.app import FabricEmulator
from renewer.emulator.fabric.exchange import RequestRecord
from renewer.emulator.fabric.scenario import (
    BUILT_IN,
    BytesResult,
    Ending,
    ErrorDetails,
    JsonResult,
    NoResult,
    PathResult,
    Scenario,
)
from renewer.emulator.fabric.scripting import SCENARIO_HEADER

__all__ = [
    "BUILT_IN",
    "SCENARIO_HEADER",
    "BytesResult",
    "Ending",
    "ErrorDetails",
    "FabricEmulator",
    "JsonResult",
    "NoResult",
    "PathResult",
    "RequestRecord",
    "Scenario",
]
