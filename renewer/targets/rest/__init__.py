"""What targets over HTTP APIs of Microsoft share: one account, one request with its token, what answers say."""

from renewer.targets.rest.account import AccountOptions
from renewer.targets.rest.caller import Caller, build_account_transport
from renewer.targets.rest.places import Place, locate
from renewer.targets.rest.requests import Adopt, Submit, is_retry_safe, parse_adopt, parse_submit

__all__ = [
    "AccountOptions",
    "Adopt",
    "Caller",
    "Place",
    "Submit",
    "build_account_transport",
    "is_retry_safe",
    "locate",
    "parse_adopt",
    "parse_submit",
]
