from __future__ import annotations

import pytest

from renewer.emulator.broker import Broker, BrokerOptions, QueueSpec
from renewer.emulator.broker.addresses import NodeKind, covers, entity_path, parse_address
from renewer.emulator.broker.sas import parse_sas
from renewer.emulator.broker.wire import ticks
from renewer.errors import UsageError


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "/orders"},
        {"name": "a//b"},
        {"name": "a/$deadletterqueue"},
        {"name": "x" * 261},
        {"name": "q", "lock_duration_s": 0},
        {"name": "q", "lock_duration_s": 301},
        {"name": "q", "max_delivery_count": 0},
    ],
)
def test_queues_that_make_no_sense_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        QueueSpec(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fields",
    [
        {"key_name": "root"},
        {"key": "k"},
        {"auth_deadline_s": 0},
        {"link_idle_s": -1},
        {"idle_timeout_s": 0},
        {"next_session_wait_s": 86401},
        {"handle_max": 0},
        {"max_frame_size": 511},
        {"max_message_size": 10},
        {"max_connections": 0},
    ],
)
def test_options_that_make_no_sense_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        BrokerOptions(**fields)  # type: ignore[arg-type]


def test_the_lock_duration_of_the_broker_is_checked_too() -> None:
    with pytest.raises(UsageError, match="lock_duration_s"):
        Broker(lock_duration_s=0)


def test_a_key_is_not_shown() -> None:
    assert "secret" not in repr(BrokerOptions(key_name="root", key="secret"))
    token = parse_sas("SharedAccessSignature sr=x&sig=secret&se=1&skn=root")
    assert token is not None
    assert "secret" not in repr(token)


@pytest.mark.parametrize(
    ("address", "kind", "path"),
    [
        ("orders", NodeKind.ENTITY, "orders"),
        ("amqps://host:5672/Orders", NodeKind.ENTITY, "Orders"),
        ("sb://host/topic/Subscriptions/sub/", NodeKind.ENTITY, "topic/Subscriptions/sub"),
        ("amqps://host/orders/$Management", NodeKind.MANAGEMENT, "orders"),
        ("orders/$DeadLetterQueue/$management", NodeKind.MANAGEMENT, "orders/$DeadLetterQueue"),
        ("$cbs", NodeKind.CBS, ""),
        ("amqps://host/$CBS", NodeKind.CBS, ""),
    ],
)
def test_addresses_name_a_node(address: str, kind: NodeKind, path: str) -> None:
    parsed = parse_address(address)
    assert parsed is not None
    assert (parsed.kind, parsed.path) == (kind, path)


@pytest.mark.parametrize("address", [None, 7, b"orders", "", "/", "amqps://host", "amqps://host/"])
def test_what_names_nothing_is_no_address(address: object) -> None:
    assert parse_address(address) is None


@pytest.mark.parametrize(
    ("claim", "path", "expected"),
    [
        ("orders", "orders", True),
        ("Orders", "orders/$management", True),
        ("", "orders", True),
        ("orders", "orders2", False),
        ("orders/$management", "orders", False),
        ("orders", "", False),
    ],
)
def test_a_claim_covers_what_is_at_or_below_its_path(claim: str, path: str, expected: bool) -> None:
    assert covers(claim, path) is expected


def test_the_path_of_an_audience_comes_without_host() -> None:
    assert entity_path("sb://host:5672/a/b/") == "a/b"
    assert entity_path("sb://host") == ""


def test_ticks_count_from_the_year_one() -> None:
    assert ticks(0) == 621_355_968_000_000_000
    assert ticks(1_700_000_000_000) == 638_355_968_000_000_000
