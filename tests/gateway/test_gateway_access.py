"""Who is let in, and to what."""

from __future__ import annotations

import base64
import hmac
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from renewer.gateway.access import LENIENCY_S, LONGEST_TOKEN, Admitted, Doorman, Refused, covers, may_not_use
from renewer.gateway.options import WorkerKey
from renewer.targets.servicebus.sas import shared_access_signature

NOW = 1_800_000_000.0
TEXT = "d29ya2VyLWtleQ=="
LOCAL = WorkerKey("local", TEXT, ("orders", "events", "events/Subscriptions/*"))
OTHER = WorkerKey("team b", "another key", ("*",))
DOORMAN = Doorman([LOCAL, OTHER])
AUDIENCE = "sb://127.0.0.1:5672/orders"


def signature(
    audience: str = AUDIENCE, *, name: str = "local", key: str = TEXT, expires_at: int = int(NOW) + 3600
) -> str:
    return shared_access_signature(audience, key_name=name, key=key, expires_at=expires_at)


def by_hand(resource: str, *, expiry: str | None = None, key: str = TEXT, name: str = "local") -> str:
    """A signature over a resource as it is given, encoded by whoever gives it."""
    expiry = str(int(NOW) + 60) if expiry is None else expiry
    digest = hmac.digest(key.encode(), f"{resource}\n{expiry}".encode(), "sha256")
    return f"SharedAccessSignature sr={resource}&sig={quote_plus(base64.b64encode(digest))}&se={expiry}&skn={name}"


def refused(token: str, audience: str = AUDIENCE, now: float = NOW) -> Refused:
    verdict = DOORMAN.judge(token, audience, now)
    assert isinstance(verdict, Refused)
    assert TEXT not in verdict.text
    assert token[:40] not in verdict.text
    return verdict


def test_a_token_signed_with_a_key_lets_in() -> None:
    assert DOORMAN.judge(signature(), AUDIENCE, NOW) == Admitted(LOCAL, "orders", "orders")
    assert DOORMAN.judge(signature(name="team b", key="another key"), AUDIENCE, NOW) == Admitted(
        OTHER, "orders", "orders"
    )


@pytest.mark.parametrize(
    ("resource", "audience", "entity"),
    [
        ("sb://127.0.0.1:5672/orders", "sb://127.0.0.1:5672/orders/$DeadLetterQueue", "orders/$DeadLetterQueue"),
        ("sb://127.0.0.1:5672/orders", "amqps://127.0.0.1/orders/$management", "orders"),
        ("amqps://localhost/orders", "sb://LOCALHOST:5672/ORDERS", "ORDERS"),
        ("http://localhost/", "sb://localhost/events/Subscriptions/x", "events/Subscriptions/x"),
        ("sb://localhost", "sb://localhost/orders/", "orders"),
        ("sb://[::1]:5672/orders/", "sb://[::1]/orders", "orders"),
        ("sb://localhost/", "sb://localhost/", ""),
        ("sb://localhost:5672", "sb://localhost:5672", ""),
    ],
)
def test_a_token_is_good_for_what_lies_below(resource: str, audience: str, entity: str) -> None:
    scope = "orders" if "orders" in resource else ""
    assert DOORMAN.judge(signature(resource), audience, NOW) == Admitted(LOCAL, entity, scope)


@pytest.mark.parametrize(
    ("resource", "audience"),
    [
        ("sb://127.0.0.1:5672/order", AUDIENCE),
        ("sb://127.0.0.1:5672/orders/x", AUDIENCE),
        ("sb://elsewhere/orders", AUDIENCE),
        ("sb://127.0.0.1:5672/orders", "sb://127.0.0.1:5672/"),
        ("orders", AUDIENCE),
        ("ftp://127.0.0.1:5672/orders", AUDIENCE),
        (AUDIENCE, "ftp://127.0.0.1:5672/orders"),
    ],
)
def test_a_token_is_not_good_for_anything_else(resource: str, audience: str) -> None:
    verdict = refused(signature(resource), audience)
    assert verdict.why == "key"
    assert "InvalidAudience" in verdict.text


@pytest.mark.parametrize(
    ("encoded", "audience", "entity"),
    [
        (quote("sb://127.0.0.1:5672/orders", safe=""), AUDIENCE, "orders"),
        (quote("sb://127.0.0.1:5672/orders", safe="").lower(), AUDIENCE, "orders"),
        ("sb://127.0.0.1:5672/orders", AUDIENCE, "orders"),
    ],
)
def test_however_a_client_encodes_the_resource_it_counts_as_it_was_signed(
    encoded: str, audience: str, entity: str
) -> None:
    assert DOORMAN.judge(by_hand(encoded), audience, NOW) == Admitted(LOCAL, entity, entity)


def test_a_signature_with_a_plus_as_it_is_counts() -> None:
    for second in range(200):
        token = signature(expires_at=int(NOW) + second)
        if "%2B" in token:
            assert DOORMAN.judge(token.replace("%2B", "+"), AUDIENCE, NOW) == Admitted(LOCAL, "orders", "orders")
            return
    raise AssertionError


def test_the_name_of_a_key_may_be_encoded_in_any_way() -> None:
    for name in ("team b", "team%20b", "team+b"):
        token = by_hand(quote_plus(AUDIENCE), key="another key", name=name)
        assert DOORMAN.judge(token, AUDIENCE, NOW) == Admitted(OTHER, "orders", "orders")


def test_a_wrong_key_and_a_name_that_is_unknown_are_refused_in_the_same_words() -> None:
    wrong = refused(signature(key="guess"))
    unknown = refused(signature(name="nobody"))
    crossed = refused(signature(name="team b"))
    assert wrong == unknown == crossed
    assert wrong.why == "key"
    assert "InvalidSignature" in wrong.text


def test_a_token_lets_in_until_shortly_after_its_end() -> None:
    token = signature(expires_at=int(NOW))
    assert isinstance(DOORMAN.judge(token, AUDIENCE, NOW + LENIENCY_S), Admitted)
    verdict = refused(token, now=NOW + LENIENCY_S + 1)
    assert verdict.why == "key"
    assert "ExpiredToken" in verdict.text


@pytest.mark.parametrize("leniency_s", [0.0, 60.0])
def test_for_how_long_after_its_end_a_token_lets_in_can_be_chosen(leniency_s: float) -> None:
    doorman = Doorman([LOCAL, OTHER], leniency_s)
    token = signature(expires_at=int(NOW))
    assert isinstance(doorman.judge(token, AUDIENCE, NOW + leniency_s), Admitted)
    verdict = doorman.judge(token, AUDIENCE, NOW + leniency_s + 1)
    assert isinstance(verdict, Refused)
    assert "ExpiredToken" in verdict.text


def test_an_entity_that_the_key_may_not_use_is_refused() -> None:
    verdict = refused(signature("sb://127.0.0.1:5672/secret"), "sb://127.0.0.1:5672/secret")
    assert verdict == Refused("entity", may_not_use(LOCAL, "secret"))
    assert "'local'" in verdict.text
    assert "'secret'" in verdict.text


@pytest.mark.parametrize("path", ["orders/../secret", "orders%2Fx", "$cbs", "$management", "orders//x"])
def test_an_odd_audience_is_refused(path: str) -> None:
    audience = f"sb://127.0.0.1:5672/{path}"
    assert refused(signature(audience), audience).why == "entity"


@pytest.mark.parametrize(
    "token",
    [
        "SharedAccessSignature ",
        "SharedAccessSignature sr=a&sig=b&se=1",
        "SharedAccessSignature sr=a&sig=b&se=1&skn=c&skn=local",
        "SharedAccessSignature sr=a&sig=b&se=1&skn=c&x=y",
        "SharedAccessSignature sr=a&sig=b&se=&skn=c",
        "SharedAccessSignature sr=a&sig=b&se=soon&skn=c",
        "SharedAccessSignature sr=a&sig=b&se=\u0661&skn=c",
        "SharedAccessSignature sr=a&sig=b&se=1234567890123&skn=c",
        "SharedAccessSignature sr=a&sig=%&se=1&skn=c",
        signature() + "&se=99999999999",
        signature().replace("&se=", "&se=9"),
        signature().replace("sr=", "sr=x"),
        signature().replace("SharedAccessSignature", "sharedaccesssignature"),
        signature() + "\n",
    ],
)
def test_a_token_that_is_odd_is_refused(token: str) -> None:
    assert refused(token).why == "key"


def test_a_token_of_a_cloud_identity_is_refused_with_a_hint() -> None:
    verdict = refused("eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJodHRwczovL3NlcnZpY2VidXMifQ.c2ln")
    assert "SharedAccessKey" in verdict.text


def test_a_huge_token_is_refused_unread() -> None:
    assert "too long" in refused(signature() + "x" * LONGEST_TOKEN).text
    assert "too long" in refused(signature(), "sb://h/" + "x" * LONGEST_TOKEN).text


@given(st.text(max_size=100), st.text(max_size=60))
def test_whatever_is_shown_is_judged(token: str, audience: str) -> None:
    assert isinstance(DOORMAN.judge(token, audience, NOW), Refused)
    assert isinstance(DOORMAN.judge("SharedAccessSignature " + token, audience, NOW), Refused)
    verdict = DOORMAN.judge(signature(), audience, NOW)
    assert isinstance(verdict, Refused)


def test_a_key_without_text_lets_nobody_in() -> None:
    empty = Doorman([WorkerKey("local", "", ("*",))])
    assert isinstance(empty.judge(signature(key=""), AUDIENCE, NOW), Refused)


def test_two_keys_of_one_name_both_let_in() -> None:
    successor = WorkerKey("local", "next", ("orders",))
    both = Doorman([LOCAL, successor])
    assert both.judge(signature(), AUDIENCE, NOW) == Admitted(LOCAL, "orders", "orders")
    assert both.judge(signature(key="next"), AUDIENCE, NOW) == Admitted(successor, "orders", "orders")


def test_a_key_may_use_what_its_patterns_cover() -> None:
    assert DOORMAN.may_use(LOCAL, "Orders")
    assert DOORMAN.may_use(LOCAL, "events/subscriptions/a")
    assert not DOORMAN.may_use(LOCAL, "events/subscriptions")
    assert not DOORMAN.may_use(LOCAL, "")
    assert not DOORMAN.may_use(OTHER, "")


@pytest.mark.parametrize(
    ("pattern", "base", "does"),
    [
        ("*", "orders", True),
        ("*", "events/Subscriptions/a", True),
        ("orders", "ORDERS", True),
        ("orders", "orders2", False),
        ("orders", "orders/Subscriptions/a", False),
        ("events/Subscriptions/*", "events/Subscriptions/a", True),
        ("events/Subscriptions/*", "events/Subscriptions/a/b", False),
        ("events/*/a", "events/Subscriptions/a", True),
        ("team-*", "team-a", True),
        ("team-*", "team-a/orders", False),
        ("team-*-in", "team-a-in", True),
        ("*-in", "-in", True),
        ("/orders/", "orders", True),
        ("a.c", "abc", False),
        ("*/*", "a/b", True),
        ("**", "a/b", False),
        ("", "a", False),
    ],
)
def test_a_pattern_stands_for_entities(pattern: str, base: str, does: bool) -> None:
    assert covers(pattern, base) is does


def test_a_pattern_of_many_stars_is_judged_soon() -> None:
    assert not covers("*a" * 12 + "b", "a" * 60)


def test_nothing_shows_a_key() -> None:
    assert TEXT not in repr(DOORMAN.judge(signature(), AUDIENCE, NOW))
