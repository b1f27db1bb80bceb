"""Options that several methods take, and that are listed once: what is none of them is refused as Python refuses it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

import httpx
import pytest

from renewer import client as public
from renewer.client import (
    AsyncClient,
    AsyncMessageLock,
    AsyncReceivedMessage,
    Client,
    LeaseFilter,
    LeaseOptions,
    OperationFilter,
    OperationOptions,
)

pytestmark = pytest.mark.anyio

KINDS = (LeaseFilter, LeaseOptions, OperationFilter, OperationOptions)

CALLS: dict[str, tuple[type, Callable[..., Any]]] = {
    "lease_page": (LeaseFilter, lambda client, **more: client.lease_page(**more)),
    "leases": (LeaseFilter, lambda client, **more: client.leases(**more)),
    "hold": (LeaseOptions, lambda client, **more: client.hold("orders", **more)),
    "hold_all": (LeaseOptions, lambda client, **more: client.hold_all("orders", [], **more)),
    "session": (LeaseOptions, lambda client, **more: client.session("orders", **more)),
    "message_lock": (LeaseOptions, lambda client, **more: client.message_lock("orders", "token", **more)),
    "operation_page": (OperationFilter, lambda client, **more: client.operation_page(**more)),
    "operations": (OperationFilter, lambda client, **more: client.operations(**more)),
    "submit": (OperationOptions, lambda client, **more: client.submit("POST", "https://h/x", **more)),
    "adopt": (OperationOptions, lambda client, **more: client.adopt("POST", "https://h/x", 202, **more)),
    "follow": (OperationOptions, lambda client, **more: client.follow(httpx.Response(202), **more)),
}

WRONG = [
    ("lease_page", "nonsense"),
    ("leases", "nonsense"),
    ("leases", "sort"),
    ("leases", "limit"),
    ("hold", "labls"),
    ("hold_all", "typo"),
    ("hold_all", "kind"),
    ("hold_all", "lock_token"),
    ("session", "pid"),
    ("session", "lock_token"),
    ("session", "kind"),
    ("message_lock", "session_id"),
    ("message_lock", "reacquire"),
    ("operation_page", "page_size"),
    ("operations", "limit"),
    ("submit", "url_query"),
    ("adopt", "typo"),
    ("follow", "idempotency_key"),
]


@pytest.fixture
def client() -> Iterator[Client]:
    with Client("tcp:127.0.0.1:9", retry_for=0) as client:
        yield client


@pytest.mark.parametrize(("method", "name"), WRONG)
def test_an_option_that_a_method_does_not_have_is_refused_when_it_is_called(client, method, name):
    with pytest.raises(TypeError, match=rf"^{method}\(\) got an unexpected keyword argument '{name}'$"):
        CALLS[method][1](client, **{name: "x"})


async def awaited(client: AsyncClient, method: str, name: str) -> object:
    """A method that is no coroutine tells when it is called."""
    outcome = CALLS[method][1](client, **{name: "x"})
    assert inspect.iscoroutine(outcome)
    return await outcome


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(("method", "name"), WRONG)
async def test_so_it_is_in_async_code_where_what_is_awaited_tells_when_it_is(anyio_backend, method, name):
    async with AsyncClient("tcp:127.0.0.1:9", retry_for=0) as client:
        with pytest.raises(TypeError, match=rf"^{method}\(\) got an unexpected keyword argument '{name}'$"):
            await awaited(client, method, name)


@pytest.mark.parametrize("client_type", [Client, AsyncClient])
def test_all_methods_that_have_such_options_are_tried_here_and_name_them_in_their_help(client_type):
    members = inspect.getmembers(client_type, inspect.isfunction)
    methods = {
        name: method
        for name, method in members
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in inspect.signature(method).parameters.values())
    }
    assert set(methods) == set(CALLS) == {method for method, _ in WRONG}
    for name, method in methods.items():
        kind = CALLS[name][0].__name__
        assert f"`{kind}`" in (method.__doc__ or "")
        assert f"`{kind}`" in (client_type.__doc__ or "")


@pytest.mark.parametrize("kind", KINDS)
def test_the_options_are_public_and_their_help_names_each_of_them(kind):
    assert kind.__name__ in public.__all__
    named = re.findall(r"`(\w+)`", kind.__doc__ or "")
    assert named == list(get_type_hints(kind))


@pytest.mark.parametrize("settler", [AsyncMessageLock, AsyncReceivedMessage])
def test_what_settles_a_message_in_async_code_is_known_to_be_awaited(settler):
    for name in ("complete", "abandon", "defer", "dead_letter"):
        assert inspect.iscoroutinefunction(getattr(settler, name))
