"""Service Bus connection strings."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from renewer.config import ConnectionString
from renewer.errors import ConfigError

CLOUD = "Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=rule;SharedAccessKey=c2VjcmV0Cg=="
LOCAL = "Endpoint=sb://127.0.0.1:5673;SharedAccessKeyName=local;SharedAccessKey=bG9jYWw=;UseDevelopmentEmulator=true"


def mistakes(text: str) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        ConnectionString.parse(text)
    return [(problem.key, problem.remedy) for problem in caught.value.problems]


def test_a_namespace_is_reached_by_tls_on_5671() -> None:
    parsed = ConnectionString.parse(CLOUD)
    assert (parsed.host, parsed.port, parsed.tls, parsed.emulator) == ("ns.servicebus.windows.net", 5671, True, False)
    assert (parsed.key_name, parsed.key.get_secret_value(), parsed.entity_path) == ("rule", "c2VjcmV0Cg==", None)


def test_an_emulator_is_reached_without_tls() -> None:
    parsed = ConnectionString.parse(LOCAL)
    assert (parsed.host, parsed.port, parsed.tls, parsed.emulator) == ("127.0.0.1", 5673, False, True)
    assert ConnectionString.parse(LOCAL.replace(":5673", "")).port == 5672


@pytest.mark.parametrize("word", ["true", "True", "TRUE"])
def test_keys_and_truth_values_are_read_without_regard_to_case(word: str) -> None:
    text = (
        f"ENDPOINT=SB://host;sharedaccesskeyname=n;SHAREDACCESSKEY=k;usedevelopmentemulator={word};entitypath=Orders;"
    )
    parsed = ConnectionString.parse(text)
    assert (parsed.host, parsed.emulator, parsed.entity_path) == ("host", True, "Orders")
    assert ConnectionString.parse(f"{CLOUD};UseDevelopmentEmulator=False").tls


def test_white_space_and_empty_parts_do_not_matter() -> None:
    assert ConnectionString.parse(" ; ".join(CLOUD.split(";")) + "; ;") == ConnectionString.parse(CLOUD)


def test_an_ipv6_endpoint_is_read() -> None:
    assert ConnectionString.parse(CLOUD.replace("ns.servicebus.windows.net", "[::1]:99")).host == "::1"


def test_everything_that_is_missing_is_told_at_once() -> None:
    assert [key for key, _ in mistakes("")] == ["SharedAccessKeyName", "SharedAccessKey", "Endpoint"]


READY = "SharedAccessSignature sr=sb%3A%2F%2Fhost%2Forders&sig=TOPSECRET%3D&se=1900000000&skn=my+rule"


def test_a_ready_signature_says_its_policy_and_its_end() -> None:
    parsed = ConnectionString.parse(f"Endpoint=sb://host;EntityPath=orders;SharedAccessSignature={READY}")
    assert parsed.signature is not None
    assert parsed.signature.get_secret_value() == READY
    assert (parsed.key, parsed.key_name, parsed.signature_ends_at) == (None, "my rule", 1_900_000_000)
    assert "TOPSECRET" not in repr(parsed)


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "sr=x&sig=TOPSECRET&se=1900000000&skn=n",
        "SharedAccessSignature",
        "SharedAccessSignature sr=x&sig=TOPSECRET&se=1900000000",
        "SharedAccessSignature sr=&sig=TOPSECRET&se=1900000000&skn=n",
        "SharedAccessSignature sr=x&sig=TOPSECRET&se=soon&skn=n",
        "SharedAccessSignature sr=x&sig=TOPSECRET&se=190000000000&skn=n",
        "SharedAccessSignature sr=x&sig=TOPSECRET&se=\u0661&skn=n",
    ],
)
def test_a_ready_signature_must_be_whole(signature: str) -> None:
    ((key, remedy),) = mistakes(f"Endpoint=sb://host;SharedAccessSignature={signature}")
    assert key == "SharedAccessSignature"
    assert "sr=…&sig=…&se=…&skn=…" in remedy
    assert "TOPSECRET" not in remedy


def test_a_ready_signature_and_a_key_do_not_go_together() -> None:
    found = mistakes(f"{CLOUD};SharedAccessSignature={READY}")
    assert [key for key, _ in found] == ["SharedAccessKeyName", "SharedAccessKey"]


def test_it_is_known_whether_a_port_was_named() -> None:
    assert not ConnectionString.parse(CLOUD).is_port_given
    assert ConnectionString.parse(LOCAL).is_port_given


@pytest.mark.parametrize(
    "endpoint",
    [
        "host",
        "http://host",
        "sb://",
        "sb://host/path",
        "sb://u:p@host",
        "sb://host?x=1",
        "sb://host:",
        "sb://host:0",
        "sb://host:99999",
        "sb://host:x",
        "sb://[::1",
        "sb://ho st",
        "sb://1.2.3",
        "",
    ],
)
def test_an_endpoint_is_a_host_and_perhaps_a_port(endpoint: str) -> None:
    found = mistakes(f"Endpoint={endpoint};SharedAccessKeyName=n;SharedAccessKey=k")
    assert [key for key, _ in found] == ["Endpoint"]
    assert "sb://HOST" in found[0][1]


@pytest.mark.parametrize(
    ("extra", "key", "remedy"),
    [
        (";SharedAccesKey=k", "part 4", "did you mean SharedAccessKey?"),
        (";TransportType=Amqp", "part 4", "known are Endpoint"),
        (";nonsense", "part 4", "must be KEY=VALUE"),
        (";Endpoint=sb://other", "Endpoint", "is given twice"),
        (";EntityPath=", "EntityPath", "must name an entity"),
        (";UseDevelopmentEmulator=yes", "UseDevelopmentEmulator", "must be true or false"),
        (";EntityPath=a\nb", "EntityPath", "control characters"),
        (";" + "x" * 5000, "connection string", "at most 4096"),
    ],
)
def test_a_wrong_part_is_named_with_what_would_be_right(extra: str, key: str, remedy: str) -> None:
    found = mistakes(CLOUD + extra)
    assert found[0][0] == key
    assert remedy in found[0][1]


def test_the_key_shows_in_no_representation() -> None:
    parsed = ConnectionString.parse(CLOUD)
    assert "c2VjcmV0" not in f"{parsed!r} {parsed}"
    assert "***" in repr(parsed)


@settings(deadline=None)
@given(st.text(max_size=60), st.sampled_from(["", CLOUD + ";", "Endpoint=sb://", "SharedAccessKey=", "EntityPath="]))
def test_whatever_is_wrong_it_is_a_configuration_error_that_repeats_nothing(noise: str, before: str) -> None:
    secret = "sEcReT" + noise
    with contextlib.suppress(ConfigError):
        ConnectionString.parse(before + secret)
        return
    assert not any("sEcReT" in part for mistake in mistakes(before + secret) for part in mistake)
