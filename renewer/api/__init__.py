"""The local control API: wire models and server. It sees the daemon through `Control` alone.

What answers, `renewer.api.server`, is imported by `load_api`: it takes longer than all the rest.
"""

from renewer.api.control import Control, FollowRequest, HoldRequest
from renewer.api.door import load_api, serve_api

__all__ = ["Control", "FollowRequest", "HoldRequest", "load_api", "serve_api"]
