"""The local control API: wire models and server. It sees the daemon through `Control` alone."""

from renewer.api.control import Control, FollowRequest, HoldRequest
from renewer.api.server import build_api, openapi_document, serve_api

__all__ = ["Control", "FollowRequest", "HoldRequest", "build_api", "openapi_document", "serve_api"]
