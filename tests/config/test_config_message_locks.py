"""The settings of message locks: how many go into one request, and the transport that keeps them alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from renewer.api.control import HoldRequest
from renewer.core.states import LeaseKind
from renewer.daemon.build import build_namespaces, namespaces_of
from renewer.daemon.clock import SystemClock
from renewer.daemon.registrar import Registrar
from renewer.errors import UsageError

if TYPE_CHECKING:
    from tests.config.conftest import ConfigFile

SECTION = "[servicebus.main]\nconnection_string = '$CONNECTION'\n"
TOKEN = "3d6c1b1e-7a57-4f2a-9a3f-0e6a7a5b8f10"


def registrar(config: ConfigFile, text: str) -> Registrar:
    settings = config.load(SECTION + text)
    targets = build_namespaces(settings, SystemClock(), lambda _: None, {})
    return Registrar(namespaces_of(settings, targets), {})


def message(**more: object) -> HoldRequest:
    return HoldRequest("main", "orders", LeaseKind.MESSAGE, lock_token=TOKEN, **more)  # type: ignore[arg-type]


def test_how_many_locks_go_into_a_request_can_be_set(config: ConfigFile) -> None:
    for text, most in (("", 100), ("message_batch = 1\n", 1), ("message_batch = 1000\n", 1000)):
        settings = config.load(SECTION + text)
        (target,) = build_namespaces(settings, SystemClock(), lambda _: None, {}).values()
        assert target.options.message_batch == most
    for wrong in (0, 1001):
        (problem,) = config.problems(f"{SECTION}message_batch = {wrong}\n")
        assert problem.key == "servicebus.main.message_batch"


def test_a_session_cannot_be_held_over_rest(config: ConfigFile) -> None:
    (problem,) = config.problems(f"{SECTION}transport = 'rest'\n[[session]]\nentity = 'orders'\nsession_id = 'a'\n")
    assert problem.key == "session[0]"
    assert 'sessions need "amqp"' in problem.remedy


def test_a_proxy_does_nothing_for_rest(config: ConfigFile) -> None:
    (problem,) = config.problems(f"{SECTION}transport = 'rest'\nproxy = 'http://proxy.example:3128'\n")
    assert 'has no effect with transport = "rest"' in problem.remedy


def test_the_port_of_rest_is_that_of_https(config: ConfigFile) -> None:
    for endpoint, url in (
        ("Endpoint=sb://contoso.servicebus.windows.net/", "https://contoso.servicebus.windows.net"),
        ("Endpoint=sb://127.0.0.1:8323/;UseDevelopmentEmulator=true", "http://127.0.0.1:8323"),
        ("Endpoint=sb://127.0.0.1/;UseDevelopmentEmulator=true", "http://127.0.0.1"),
    ):
        text = f"{endpoint};SharedAccessKeyName=a;SharedAccessKey=YQ=="
        settings = config.load(f"[servicebus.main]\nconnection_string = '{text}'\ntransport = 'rest'\n")
        (target,) = build_namespaces(settings, SystemClock(), lambda _: None, {}).values()
        assert target.options.rest_url == url
        assert target.options.audience("orders").startswith("http://")


def test_what_rest_cannot_keep_is_refused_when_it_is_registered(config: ConfigFile) -> None:
    over_rest = registrar(config, "transport = 'rest'\n")
    for request, what in (
        (HoldRequest("main", "orders", session_id="a"), 'sessions need "amqp"'),
        (message(lock_duration_s=30.0), "sequence_number"),
        (message(sequence_number=1), "lock_duration"),
    ):
        with pytest.raises(UsageError, match=what):
            over_rest.lease(request)
    assert over_rest.lease(message(sequence_number=1, lock_duration_s=30.0)).sequence_number == 1
    configured = registrar(config, "transport = 'rest'\nlock_duration = '30s'\n")
    assert configured.lease(message(sequence_number=1)).lock_duration_s is None
    over_amqp = registrar(config, "")
    assert over_amqp.lease(message()).sequence_number is None
    assert over_amqp.lease(HoldRequest("main", "orders", session_id="a")).session_id == "a"
    with pytest.raises(UsageError, match="sequence_number: goes with the kind message"):
        over_amqp.lease(HoldRequest("main", "orders", session_id="a", sequence_number=1))
