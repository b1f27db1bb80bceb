"""Settings from TOML, environment and flags: every mistake told at once, the rest turned into core values."""

from renewer.config.accounts import AccountSettings, AzureSettings, FabricSettings
from renewer.config.connectionstring import ConnectionString
from renewer.config.gateways import GatewayEntitySettings, GatewayKeySettings, GatewayRenewSettings, GatewaySettings
from renewer.config.identity import IdentitySettings
from renewer.config.listen import TcpListen, UnixListen, is_loopback, parse_api_listen
from renewer.config.load import load
from renewer.config.model import (
    ApiSettings,
    CallbackSettings,
    DaemonSettings,
    MetricsSettings,
    RegistrySettings,
    RenewalSettings,
    ServiceBusSettings,
    SessionSettings,
    Settings,
)
from renewer.config.namespaces import split_namespace
from renewer.config.problems import describe_problems
from renewer.config.quantities import parse_duration
from renewer.config.secretsource import SecretSource, resolve_secret

__all__ = [
    "AccountSettings",
    "ApiSettings",
    "AzureSettings",
    "CallbackSettings",
    "ConnectionString",
    "DaemonSettings",
    "FabricSettings",
    "GatewayEntitySettings",
    "GatewayKeySettings",
    "GatewayRenewSettings",
    "GatewaySettings",
    "IdentitySettings",
    "MetricsSettings",
    "RegistrySettings",
    "RenewalSettings",
    "SecretSource",
    "ServiceBusSettings",
    "SessionSettings",
    "Settings",
    "TcpListen",
    "UnixListen",
    "describe_problems",
    "is_loopback",
    "load",
    "parse_api_listen",
    "parse_duration",
    "resolve_secret",
    "split_namespace",
]
