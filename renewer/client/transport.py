"""What both clients ask of httpx, so that they ask for the same."""

from __future__ import annotations

import ssl
from typing import Any

import httpx

from renewer.client.address import Address
from renewer.client.following import SILENCE_S
from renewer.client.wire import Request

_CONNECT_S = 5.0


def transport_options(address: Address) -> dict[str, Any]:
    """How to reach `address`; for httpx.HTTPTransport and httpx.AsyncHTTPTransport."""
    # Reading the system's certificates takes longer than a request; without TLS nobody needs them.
    secure = address.base_url.startswith("https:")
    tls = ssl.create_default_context() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return {
        "uds": address.uds,
        "verify": tls,
        # Requests that wait hold a connection each.
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=30.0),
    }


def client_options(address: Address) -> dict[str, Any]:
    """For httpx.Client and httpx.AsyncClient. The environment's proxies have no business with a local daemon."""
    return {"base_url": address.base_url, "headers": address.headers, "trust_env": False}


def request_options(request: Request) -> dict[str, Any]:
    """For ``build_request``."""
    return {
        "method": request.method,
        "url": request.path,
        "params": list(request.params) or None,
        "headers": dict(request.headers),
        "content": request.content,
    }


def request_timeout(request: Request, timeout_s: float) -> httpx.Timeout:
    """How long each phase of a request may take."""
    allowed_s = timeout_s if request.limit_s is None else min(timeout_s, request.limit_s)
    return httpx.Timeout(allowed_s + request.extra_s, connect=min(_CONNECT_S, allowed_s), write=allowed_s)


def stream_timeout(timeout_s: float) -> httpx.Timeout:
    """The same for a stream, which is silent for a while and lives on."""
    return httpx.Timeout(SILENCE_S, connect=min(_CONNECT_S, timeout_s), write=timeout_s)
