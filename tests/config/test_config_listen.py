"""Addresses to listen on."""

from __future__ import annotations

from pathlib import Path

import pytest

from renewer.config import TcpListen, UnixListen, is_loopback
from renewer.config.listen import is_host, parse_api_listen, parse_metrics_listen


@pytest.mark.parametrize(
    ("written", "listen"),
    [
        ("unix:./var/renewer.sock", UnixListen(Path("var/renewer.sock"))),
        ("unix:/run/renewer.sock", UnixListen(Path("/run/renewer.sock"))),
        ("tcp:127.0.0.1:8322", TcpListen("127.0.0.1", 8322)),
        ("tcp:localhost:0", TcpListen("localhost", 0)),
        ("tcp:[::1]:8322", TcpListen("::1", 8322)),
    ],
)
def test_the_api_listens_on_a_socket_or_a_port(written: str, listen: UnixListen | TcpListen) -> None:
    assert parse_api_listen(written) == listen
    assert parse_api_listen(str(listen)) == listen


@pytest.mark.parametrize(
    "written",
    [
        "",
        "unix:",
        "unix:/run/",
        "tcp:",
        "tcp:8322",
        "127.0.0.1:8322",
        "tcp:::1:8322",
        "tcp:host:x",
        "http://x:1",
        "tcp:h/x:1",
        "tcp:127.0.0.1:65536",
        "tcp:127.0.0.1:-1",
        "tcp:300.0.0.1:80",
        "tcp:a b:80",
        "tcp::80",
        "unix:a\nb",
        8322,
        None,
    ],
)
def test_what_is_no_address_of_the_api_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match='must be "unix:PATH" or "tcp:HOST:PORT"'):
        parse_api_listen(written)


def test_a_socket_path_that_the_system_cannot_take_is_refused() -> None:
    assert parse_api_listen("unix:" + "x" * 107) == UnixListen(Path("x" * 107))
    with pytest.raises(ValueError, match="at most 107 bytes"):
        parse_api_listen("unix:" + "x" * 108)


@pytest.mark.parametrize("written", ["", "off", " off ", None])
def test_metrics_can_be_turned_off(written: str | None) -> None:
    assert parse_metrics_listen(written) is None


@pytest.mark.parametrize("written", ["9464", ":9464", "tcp:127.0.0.1:9464", "on", 9464, "127.0.0.1:70000"])
def test_what_is_no_address_of_metrics_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match='must be "HOST:PORT"'):
        parse_metrics_listen(written)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1"])
def test_loopback_is_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.1", "example.com", "localhost.example.com", "127.0.0.1.nip.io"]
)
def test_everything_else_is_foreign(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("host", "right"), [("a-b.c", True), ("a", True), ("::1", True), ("1.2.3", False), ("a..b", False), ("", False)]
)
def test_a_host_is_a_name_or_an_address(host: str, right: bool) -> None:
    assert is_host(host) is right


@pytest.mark.parametrize(
    ("one", "other", "collide"),
    [
        (TcpListen("127.0.0.1", 80), TcpListen("127.0.0.1", 80), True),
        (TcpListen("127.0.0.1", 80), TcpListen("127.0.0.1", 81), False),
        (TcpListen("0.0.0.0", 80), TcpListen("127.0.0.1", 80), True),
        (TcpListen("localhost", 80), TcpListen("127.0.0.1", 80), True),
        (TcpListen("127.0.0.1", 80), TcpListen("10.0.0.1", 80), False),
        (TcpListen("127.0.0.1", 0), TcpListen("127.0.0.1", 0), False),
    ],
)
def test_two_listeners_collide_on_one_port(one: TcpListen, other: TcpListen, collide: bool) -> None:
    assert one.collides_with(other) is collide
    assert other.collides_with(one) is collide
