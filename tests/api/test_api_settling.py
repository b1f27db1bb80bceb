"""Settling the message whose lock is kept: what may be asked for, and how it is answered."""

from __future__ import annotations

import httpx
import pytest

from renewer.amqp import Timestamp, Uint
from renewer.api.server import build_api
from renewer.core.states import LeaseKind, MessageFate
from renewer.errors import ConflictError, LeaseLostError, MessageSettledError, TransientError
from renewer.ports import Settlement
from tests.api.scripted_control import ScriptedControl
from tests.api.test_api_over_daemon import api

TOKEN = "3d6c1b1e-7a57-4f2a-9a3f-0e6a7a5b8f10"
BODY = {"entity": "plain", "kind": "message", "lock_token": TOKEN, "sequence_number": 2**62}

anyio_test = pytest.mark.anyio


@pytest.fixture
def control():
    return ScriptedControl()


@pytest.fixture
async def client(control):
    transport = httpx.ASGITransport(build_api(control, over_tcp=False))
    async with httpx.AsyncClient(transport=transport, base_url="http://renewer", timeout=None) as client:
        yield client


@pytest.fixture
async def lease(control):
    return control.add_lease(None, kind=LeaseKind.MESSAGE)


@anyio_test
@pytest.mark.parametrize("how", ["complete", "abandon", "defer", "dead-letter"])
async def test_a_message_is_settled_and_its_lease_answered(control, client, lease, how):
    answer = await client.post(f"/v1/leases/{lease.spec.id}/{how}")
    assert answer.status_code == 200
    assert (answer.json()["state"], answer.json()["settled"]) == ("released", "completed")
    assert control.settlements == [Settlement(how)]
    assert lease.spec.id in control.settled_keys


@anyio_test
async def test_properties_become_amqp_values(control, client, lease):
    properties = {
        "text": "a",
        "whole": 7,
        "real": 0.5,
        "truth": True,
        "nothing": None,
        "typed": {"type": "uint", "value": 7},
        "raw": {"type": "binary", "value": "AP8="},
        "at": {"type": "timestamp", "value": "2026-01-02T00:00:00Z"},
    }
    body = {"properties": properties, "reason": "poison", "description": "it breaks"}
    await client.post(f"/v1/leases/{lease.spec.id}/dead-letter", json=body)
    (settlement,) = control.settlements
    assert (settlement.reason, settlement.description) == ("poison", "it breaks")
    made = settlement.properties
    assert made == {
        "text": "a",
        "whole": 7,
        "real": 0.5,
        "truth": True,
        "nothing": None,
        "typed": 7,
        "raw": b"\x00\xff",
        "at": 1_767_312_000_000,
    }
    assert [type(made[name]) for name in ("whole", "real", "truth", "typed", "at")] == [
        int,
        float,
        bool,
        Uint,
        Timestamp,
    ]
    assert "breaks" not in repr(settlement.properties)


@anyio_test
@pytest.mark.parametrize(
    ("how", "body", "field"),
    [
        ("abandon", {"reason": "x"}, "reason"),
        ("defer", {"reason": "x"}, "reason"),
        ("abandon", {"properties": {"a": [1]}}, "properties.a"),
        ("abandon", {"properties": {"a": {"b": 1}}}, "properties.a"),
        ("abandon", {"properties": {"": 1}}, "properties"),
        ("abandon", {"properties": {"a": 2**63}}, "properties.a"),
        ("abandon", {"properties": {"a": {"type": "uint", "value": -1}}}, "properties.a"),
        ("abandon", {"properties": {"a": {"type": "ubyte", "value": 256}}}, "properties.a"),
        ("abandon", {"properties": {"a": {"type": "int", "value": "7"}}}, "properties.a"),
        ("abandon", {"properties": {"a": {"type": "boolean", "value": 1}}}, "properties.a"),
        ("abandon", {"properties": {"a": {"type": "binary", "value": "secret!"}}}, "properties.a"),
        ("abandon", {"properties": {"a": {"type": "uuid", "value": "secret"}}}, "properties.a"),
        ("abandon", {"properties": {"a": {"type": "char", "value": "secret"}}}, "properties.a"),
        ("abandon", {"properties": {"a": {"type": "symbol", "value": "sécret"}}}, "properties.a"),
        ("abandon", {"properties": {"a": {"type": "timestamp", "value": "2026-01-02T00:00:00"}}}, "properties.a"),
        ("abandon", {"properties": {"a": {"type": "null", "value": "secret"}}}, "properties.a"),
        ("abandon", {"properties": {"a": {"type": "map", "value": 1}}}, "properties.a"),
        ("dead-letter", {"reason": "x" * 4097}, "reason"),
        ("dead-letter", {"why": "x"}, "why"),
        ("abandon", {"properties": {str(number): 1 for number in range(101)}}, "properties"),
    ],
)
async def test_what_no_message_can_be_asked_for_is_refused_by_field(control, client, lease, how, body, field):
    answer = await client.post(f"/v1/leases/{lease.spec.id}/{how}", json=body)
    assert answer.status_code == 422
    assert any(item["field"].startswith(field) for item in answer.json()["errors"])
    assert "secret" not in answer.text
    assert "sécret" not in answer.text
    assert control.settlements == []


@anyio_test
@pytest.mark.parametrize(
    ("error", "status", "extra"),
    [
        (LeaseLostError("gone", reason="expired"), 409, {"state": "lost", "reason": "expired"}),
        (MessageSettledError("done", fate=MessageFate.DEFERRED), 409, {"state": "settled", "settled": "deferred"}),
        (ConflictError("not so"), 409, {}),
        (TransientError("it is not known whether", kind="timeout"), 504, {"failure": "timeout"}),
        (TransientError("was not completed", kind="busy"), 502, {"failure": "busy"}),
    ],
)
async def test_what_the_broker_said_is_answered(control, client, lease, error, status, extra):
    control.failures["settle"] = error
    answer = await client.post(f"/v1/leases/{lease.spec.id}/complete")
    assert answer.status_code == status
    assert answer.json()["detail"] == str(error)
    assert {name: answer.json().get(name) for name in extra} == extra


@anyio_test
async def test_a_lease_that_is_not_known_is_not_settled(client):
    assert (await client.post("/v1/leases/lease-9/complete")).status_code == 404


@anyio_test
async def test_a_sequence_number_goes_with_a_message(client):
    created = await client.post("/v1/leases", json=BODY)
    assert created.status_code == 201
    for wrong in ({"entity": "orders", "sequence_number": 1}, {**BODY, "sequence_number": -1}):
        assert (await client.post("/v1/leases", json=wrong)).status_code == 422


# Over the daemon ----------------------------------------------------------------------------------------------------


async def kept(client) -> str:
    answer = await client.post("/v1/leases?wait=10s", json=BODY)
    assert (answer.json()["state"], answer.json()["sequence_number"]) == ("held", 2**62)
    return f"/v1/leases/{answer.json()['id']}"


@anyio_test
@pytest.mark.parametrize(
    ("how", "settled"),
    [("complete", "completed"), ("abandon", "abandoned"), ("defer", "deferred"), ("dead-letter", "dead-lettered")],
)
async def test_a_message_lock_ends_by_its_settlement(clock, how, settled):
    async with api(clock) as client:
        lease = await kept(client)
        async with client.rig.control.events(wanted=lambda *_: True) as events:
            ended = (await client.post(f"{lease}/{how}")).json()
            assert (ended["state"], ended["settled"], ended["losses"]) == ("released", settled, 0)
            told = await anext(events)
            assert (told.type, told.data["settled"], told.data["detail"]) == ("lease.released", settled, settled)
        assert (await client.post(f"{lease}/{how}")).json()["settled"] == settled
        other = "abandon" if how == "complete" else "complete"
        refused = await client.post(f"{lease}/{other}")
        assert (refused.status_code, refused.json()["settled"]) == (409, settled)


@anyio_test
async def test_a_session_is_not_settled(clock):
    async with api(clock) as client:
        created = await client.post("/v1/leases?wait=10s", json={"entity": "orders", "session_id": "c"})
        refused = await client.post(f"{created.headers['location']}/complete")
        assert (refused.status_code, "session" in refused.json()["detail"]) == (409, True)
