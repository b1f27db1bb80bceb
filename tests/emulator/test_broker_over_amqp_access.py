from __future__ import annotations

import time
from base64 import b64encode
from hashlib import sha256
from hmac import digest
from urllib.parse import quote_plus

import anyio
import pytest

from renewer.amqp import AmqpTransport, Connection, Message, SaslPlain, Value, connect
from renewer.emulator.broker import BrokerOptions
from tests.emulator.broker_rig import Client, cut_off, running

pytestmark = pytest.mark.anyio

KEY = BrokerOptions(key_name="root", key="a2V5")


def signature(
    resource: str = "sb://127.0.0.1:5672/orders",
    *,
    key_name: str = "root",
    key: str = "a2V5",
    lasts_s: float = 3600,
) -> str:
    encoded, expiry = quote_plus(resource), int(time.time() + lasts_s)
    signed = b64encode(digest(key.encode(), f"{encoded}\n{expiry}".encode(), sha256))
    return f"SharedAccessSignature sr={encoded}&sig={quote_plus(signed)}&se={expiry}&skn={key_name}"


async def test_without_a_token_there_is_no_link() -> None:
    async with running() as rig, rig.client() as client:
        assert await client.refused("plain") == "amqp:unauthorized-access"
        await client.put_token("plain")
        await client.receiver("plain")
        await client.receiver("plain/$deadletterqueue")
        assert await client.refused("orders", session_id="s") == "amqp:unauthorized-access"


@pytest.mark.parametrize("audience", ["plain", "PLAIN/", "plain/$management", ""])
async def test_a_token_covers_what_it_names_and_all_below(audience: str) -> None:
    async with running() as rig, rig.client() as client:
        assert await client.put_token(audience) == 202
        covered = audience != "plain/$management"
        if covered:
            await client.receiver("plain")
        else:
            assert await client.refused("plain") == "amqp:unauthorized-access"


async def test_by_default_any_token_will_do() -> None:
    async with running() as rig, rig.client() as client:
        assert await client.put_token("orders", signature(key="other")) == 202
        await client.receiver("orders", session_id="s")


async def test_but_none_that_says_itself_that_it_is_over() -> None:
    async with running() as rig, rig.client() as client:
        assert await client.put_token("orders", signature(key="other", lasts_s=-1)) == 401
        assert await client.refused("orders", session_id="s") == "amqp:unauthorized-access"


@pytest.mark.parametrize(
    ("token", "status"),
    [
        pytest.param(signature(), 202, id="good"),
        pytest.param(signature("sb://127.0.0.1:5672/"), 202, id="for the whole namespace"),
        pytest.param(signature("http://elsewhere/ORDERS"), 202, id="other scheme, host and case"),
        pytest.param(signature(key="other"), 401, id="signed with another key"),
        pytest.param(signature(key_name="other"), 401, id="another key name"),
        pytest.param(signature(lasts_s=-1), 401, id="expired"),
        pytest.param(signature("sb://127.0.0.1:5672/plain"), 401, id="for another queue"),
        pytest.param("eyJ0eXAi", 401, id="no signature"),
        pytest.param("SharedAccessSignature sr=x&sig=y&se=never&skn=root", 401, id="no expiry"),
        pytest.param("SharedAccessSignature sr=x", 401, id="half a token"),
        pytest.param("SharedAccessSignature sr=\u00e4&sig=\u00e4&se=1&skn=\u00e4", 401, id="no ascii"),
    ],
)
async def test_tokens_are_verified_if_the_broker_has_a_key(token: str, status: int) -> None:
    async with running(options=KEY) as rig, rig.client() as client:
        assert await client.put_token("orders", token) == status
        if status == 202:
            await client.receiver("orders", session_id="s")
        else:
            assert await client.refused("orders", session_id="s") == "amqp:unauthorized-access"


@pytest.mark.parametrize(
    "message",
    [
        Message(Value("token"), application_properties={"operation": "put-token"}),
        Message(Value(7), application_properties={"operation": "put-token", "name": "sb://x/plain"}),
        Message(Value("token"), application_properties={"operation": "get-token", "name": "sb://x/plain"}),
        Message(),
    ],
)
async def test_a_request_that_puts_no_token_is_refused(message: Message) -> None:
    async with running() as rig, rig.client() as client:
        reply = await (await client.pair("$cbs")).ask(message)
        assert reply.application_properties["status-code"] == 400
        assert reply.application_properties["status-description"]


async def test_the_right_password_opens_everything() -> None:
    async with running(options=KEY) as rig, rig.client(sasl=SaslPlain("root", "a2V5")) as client:
        await client.receiver("orders", session_id="s")
        await client.receiver("plain")


@pytest.mark.parametrize("sasl", [SaslPlain("root", "wrong"), SaslPlain("else", "a2V5")])
async def test_the_wrong_password_opens_nothing(sasl: SaslPlain) -> None:
    async with running(options=KEY) as rig:
        stream = await connect("127.0.0.1", rig.port)
        connection = Connection(role="client", container_id="test", sasl=sasl, now=anyio.current_time())
        client = Client(AmqpTransport(stream, connection))
        with anyio.fail_after(10):
            await client.transport.run(client.on_event)
        assert [getattr(event, "reason", None) for event in client.events] == ["sasl"]


async def test_who_does_not_even_say_hello_is_cut_off() -> None:
    async with running(options=BrokerOptions(auth_deadline_s=0.1)) as rig:
        stream = await anyio.connect_tcp("127.0.0.1", rig.port)
        async with stream:
            await cut_off(stream)


async def test_a_clock_that_is_off_does_not_make_tokens_old() -> None:
    async with running(options=KEY) as rig, rig.client() as client:
        rig.broker.faults.clock_offset_s = 7200.0
        assert await client.put_token("orders", signature(lasts_s=3600)) == 202


async def test_a_silent_connection_is_closed() -> None:
    options = BrokerOptions(idle_timeout_s=0.3)
    async with running(options=options) as rig:
        stream = await anyio.connect_tcp("127.0.0.1", rig.port)
        async with stream:
            await stream.send(b"AMQP\x00\x01\x00\x00")
            await cut_off(stream)


async def test_more_connections_than_allowed_are_turned_away() -> None:
    async with running(options=BrokerOptions(max_connections=1)) as rig, rig.client("plain"):
        stream = await anyio.connect_tcp("127.0.0.1", rig.port)
        async with stream:
            await cut_off(stream)
        assert rig.broker.counters.connections_max == 1


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 100, b"AMQP\x00\x01\x00\x00" + b"\xff" * 8])
async def test_garbage_costs_nobody_but_its_sender(garbage: bytes) -> None:
    async with running() as rig, rig.client("plain") as client:
        stream = await anyio.connect_tcp("127.0.0.1", rig.port)
        async with stream:
            await stream.send(garbage)
            await cut_off(stream)
        await client.receiver("plain")
        assert rig.broker.counters.failures == 0


async def test_a_client_may_begin_without_sasl() -> None:
    async with running() as rig:
        stream = await anyio.connect_tcp("127.0.0.1", rig.port)
        async with stream:
            await stream.send(b"AMQP\x00\x01\x00\x00")
            with anyio.fail_after(10):
                assert (await stream.receive()).startswith(b"AMQP\x00\x01\x00\x00")
