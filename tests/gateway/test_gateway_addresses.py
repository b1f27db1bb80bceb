"""What an address names, and that there is one way to write it."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from renewer.errors import UsageError
from renewer.gateway.addresses import LONGEST_ADDRESS, Node, NodeKind, for_namespace, read_node, split_address


@pytest.mark.parametrize(
    ("address", "node"),
    [
        ("$cbs", Node(NodeKind.CBS, "", "")),
        ("$CBS", Node(NodeKind.CBS, "", "")),
        ("amqps://127.0.0.1:5672/$cbs", Node(NodeKind.CBS, "", "")),
        ("orders", Node(NodeKind.ENTITY, "orders", "orders")),
        ("/orders", Node(NodeKind.ENTITY, "orders", "orders")),
        ("amqps://127.0.0.1:5672/orders", Node(NodeKind.ENTITY, "orders", "orders")),
        ("sb://LOCALHOST/team-a/orders.new_1~x", Node(NodeKind.ENTITY, *["team-a/orders.new_1~x"] * 2)),
        ("events/Subscriptions/a", Node(NodeKind.ENTITY, *["events/Subscriptions/a"] * 2)),
        ("orders/$management", Node(NodeKind.MANAGEMENT, "orders", "orders")),
        ("amqp://h/orders/$Management", Node(NodeKind.MANAGEMENT, "orders", "orders")),
        ("orders/$DeadLetterQueue", Node(NodeKind.ENTITY, "orders/$DeadLetterQueue", "orders")),
        ("orders/$deadletterqueue", Node(NodeKind.ENTITY, "orders/$deadletterqueue", "orders")),
        (
            "orders/$Transfer/$DeadLetterQueue",
            Node(NodeKind.ENTITY, "orders/$Transfer/$DeadLetterQueue", "orders"),
        ),
        (
            "events/Subscriptions/a/$DeadLetterQueue/$management",
            Node(NodeKind.MANAGEMENT, "events/Subscriptions/a/$DeadLetterQueue", "events/Subscriptions/a"),
        ),
        ("bestellungen-\u00fc", Node(NodeKind.ENTITY, *["bestellungen-\u00fc"] * 2)),
    ],
)
def test_an_address_names_a_node(address: str, node: Node) -> None:
    assert read_node(address) == node


@pytest.mark.parametrize(
    "address",
    [
        "",
        "/",
        "//orders",
        "orders/",
        "orders//x",
        "amqps://host",
        "amqps://host/",
        "amqps://host//orders",
        "ftp://host/orders",
        "orders/../secret",
        "orders/./x",
        "..",
        "orders%2f..%2fsecret",
        "orders\\x",
        "orders?x=1",
        "orders#x",
        "orders*",
        "orders\x00",
        "orders\nx",
        "orders\u200bx",
        "orders\uff0fsecret",
        "\u212aitchen",  # the sign for Kelvin, which is a k in lower case
        "$management",
        "$DeadLetterQueue",
        "$Transfer/$DeadLetterQueue",
        "$cbs/$management",
        "orders/$cbs",
        "orders/$Transfer",
        "orders/$unknown",
        "$orders",
        "orders/$DeadLetterQueue/x",
        "orders/$DeadLetterQueue/$DeadLetterQueue",
        "orders/$management/$management",
        "orders/$management/x",
        "x" * (LONGEST_ADDRESS + 1),
    ],
)
def test_an_address_that_could_be_read_in_two_ways_is_refused(address: str) -> None:
    with pytest.raises(UsageError) as refusal:
        read_node(address)
    assert len(str(refusal.value)) < 200
    assert str(refusal.value).isprintable()


@given(
    st.text(max_size=40)
    | st.lists(st.sampled_from(["a", "", "..", "$management", "$DeadLetterQueue", "$Transfer", "/", "://"])).map(
        "/".join
    )
)
def test_whatever_is_no_node_is_refused_in_one_way(address: str) -> None:
    with suppress(UsageError):
        node = read_node(address)
        assert node.entity.startswith(node.base)
        assert bool(node.base) == (node.kind is not NodeKind.CBS)
        assert "$" not in node.base.split("/")[0][:1]
        again = {NodeKind.CBS: "$cbs", NodeKind.MANAGEMENT: node.entity + "/$management", NodeKind.ENTITY: node.entity}
        assert read_node(again[node.kind]) == node


@pytest.mark.parametrize(
    ("address", "there"),
    [
        ("amqps://127.0.0.1:5672/orders", "amqps://contoso.example/orders"),
        ("amqp://localhost/orders/$management", "amqp://contoso.example/orders/$management"),
        ("sb://[::1]:5672/orders", "sb://contoso.example/orders"),
        ("sb://127.0.0.1", "sb://contoso.example"),
        ("sb://127.0.0.1/", "sb://contoso.example/"),
        ("orders", "orders"),
        ("/orders", "/orders"),
        ("$cbs", "$cbs"),
    ],
)
def test_an_address_is_the_same_in_the_namespace(address: str, there: str) -> None:
    assert for_namespace(address, "contoso.example") == there


def test_authority_and_path_are_told_apart() -> None:
    assert split_address("sb://host:1/a/b") == ("host:1", "a/b")
    assert split_address("/a") == ("", "a")
