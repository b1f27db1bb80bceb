"""Options, signatures, the lock clock and the table of errors: nothing that waits."""

import base64
import hashlib
import hmac
import uuid
from urllib.parse import parse_qs, quote_plus

import pytest

from renewer.amqp import AmqpArray, AmqpError, Message, Timestamp, Value
from renewer.core.states import LossReason
from renewer.errors import LeaseLostError, TransientError
from renewer.targets.servicebus.channels import NoRoomError
from renewer.targets.servicebus.credentials import SharedAccessKey
from renewer.targets.servicebus.envelope import Reply, Template, correlation_key
from renewer.targets.servicebus.lockclock import LockClock, SteadyWall, from_milliseconds, from_ticks
from renewer.targets.servicebus.managementops import read_expirations, renew_message_locks, set_session_state
from renewer.targets.servicebus.options import NamespaceOptions, management_address
from renewer.targets.servicebus.sas import shared_access_signature
from renewer.targets.servicebus.verdicts import (
    attach_refused,
    copy_of,
    describe,
    loss_of,
    pair_refused,
    passing,
    renewal_refused,
)


def options(**changes):
    return NamespaceOptions(
        **{"hostname": "ns.servicebus.windows.net", "host": "ns.servicebus.windows.net", "port": 5671}
        | {"credential": SharedAccessKey("rule", "s3cret")}
        | changes
    )


# Options ------------------------------------------------------------------------------------------------------------


def test_the_key_is_not_shown():
    assert "s3cret" not in repr(options())


def test_addresses_of_a_namespace_have_no_port():
    assert options().source_address("orders") == "amqps://ns.servicebus.windows.net/orders"
    assert options().audience("orders") == "sb://ns.servicebus.windows.net/orders"


def test_addresses_of_an_emulator_have_its_port():
    emulator = options(hostname="localhost", port=5680, emulator=True, tls=False)
    assert emulator.source_address("t/Subscriptions/s") == "amqps://localhost:5680/t/Subscriptions/s"
    assert emulator.audience("orders") == "sb://localhost:5680/orders"


def test_a_target_is_named_after_its_namespace():
    assert options().target_name == "servicebus.main"
    assert management_address("orders") == "orders/$management"


# Signatures ---------------------------------------------------------------------------------------------------------


def test_a_signature_is_made_over_the_encoded_audience_and_the_expiry():
    token = shared_access_signature("sb://h:1/Orders", key_name="my rule", key="k", expires_at=1700000000)
    kind, _, fields = token.partition(" ")
    parsed = {name: values[0] for name, values in parse_qs(fields).items()}
    assert kind == "SharedAccessSignature"
    assert parsed["sr"] == "sb://h:1/Orders"
    assert parsed["skn"] == "my rule"
    assert parsed["se"] == "1700000000"
    signed = f"{quote_plus('sb://h:1/Orders', safe='')}\n1700000000".encode()
    assert parsed["sig"] == base64.b64encode(hmac.new(b"k", signed, hashlib.sha256).digest()).decode()


# Lock clock ---------------------------------------------------------------------------------------------------------

NOW = 1_700_000_000.0


def lock_clock(**how):
    return LockClock(**{"configured_s": None, "assumed_s": 5.0} | how)


def test_a_steady_wall_follows_the_monotonic_clock_only():
    assert SteadyWall(mono_at=100.0, wall_at=NOW).at(130.0) == NOW + 30


def test_the_first_answer_gives_the_duration():
    clock = lock_clock()
    clock.answered(NOW + 30, sent_at=NOW - 0.5, received_at=NOW)
    assert clock.duration_s == 30
    assert not clock.skewed


def test_a_configured_duration_wins_over_every_answer():
    clock = lock_clock(configured_s=60.0)
    clock.answered(NOW + 30, sent_at=NOW, received_at=NOW)
    clock.answered(NOW - 30000, sent_at=NOW, received_at=NOW)
    assert clock.duration_s == 60
    assert not clock.skewed


@pytest.mark.parametrize("ahead_s", [-3600.0, -30.0, -29.5, 275.1, 86400.0])
def test_an_answer_that_cannot_be_true_means_the_assumed_duration(ahead_s):
    clock = lock_clock()
    clock.answered(NOW + 30 + ahead_s, sent_at=NOW, received_at=NOW)
    assert clock.duration_s == 5
    assert clock.skewed


def test_a_later_answer_does_not_make_the_lock_longer():
    clock = lock_clock()
    clock.answered(NOW + 30, sent_at=NOW, received_at=NOW)
    clock.answered(NOW + 15 + 130, sent_at=NOW + 15, received_at=NOW + 15)
    assert clock.duration_s == 30


def test_a_later_answer_can_make_the_lock_shorter():
    clock = lock_clock()
    clock.answered(NOW + 30, sent_at=NOW, received_at=NOW)
    clock.answered(NOW + 15 + 10, sent_at=NOW + 15, received_at=NOW + 15.1)
    assert clock.duration_s == 10


def test_a_later_answer_that_is_late_does_not_make_the_lock_shorter():
    clock = lock_clock()
    clock.answered(NOW + 30, sent_at=NOW, received_at=NOW)
    clock.answered(NOW + 15 + 30, sent_at=NOW + 15, received_at=NOW + 27)
    assert clock.duration_s == 30


def test_a_later_answer_that_cannot_be_true_changes_nothing():
    clock = lock_clock()
    clock.answered(NOW + 30, sent_at=NOW, received_at=NOW)
    clock.answered(NOW - 7200, sent_at=NOW + 15, received_at=NOW + 15)
    clock.answered(NOW + 7200, sent_at=NOW + 30, received_at=NOW + 30)
    assert clock.duration_s == 30
    assert not clock.skewed


def test_a_first_answer_that_took_long_is_corrected_by_the_next_one():
    clock = lock_clock()
    clock.answered(NOW + 10, sent_at=NOW - 20, received_at=NOW)
    assert clock.duration_s == 10
    clock.answered(NOW + 1 + 30, sent_at=NOW, received_at=NOW + 1)
    assert clock.duration_s == 30
    clock.answered(NOW + 10 + 100, sent_at=NOW + 10, received_at=NOW + 10)
    assert clock.duration_s == 30


def test_no_estimate_is_longer_than_a_lock_that_was_seen_to_end():
    clock = lock_clock(upper_s=6.0)
    clock.answered(NOW + 30, sent_at=NOW, received_at=NOW)
    assert clock.duration_s == 6


def test_without_an_answer_the_assumed_duration_stands():
    clock = lock_clock()
    clock.answered(None, sent_at=NOW, received_at=NOW)
    assert clock.duration_s == 5


def test_ticks_and_milliseconds_are_read_as_epoch_seconds():
    assert from_ticks(621355968000000000 + 15_000_000) == 1.5
    assert from_milliseconds(1500) == 1.5


@pytest.mark.parametrize("value", [None, True, "1", 1.5, b"1", [1]])
def test_what_is_no_count_is_no_time(value):
    assert from_ticks(value) is None
    assert from_milliseconds(value) is None


# The table ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "kind"),
    [
        ("com.microsoft:session-cannot-be-locked", "busy"),
        ("com.microsoft:server-busy", "busy"),
        ("com.microsoft:timeout", "timeout"),
        ("amqp:internal-error", "server"),
        ("com.example:never-heard-of", "server"),
    ],
)
def test_a_refusal_that_may_pass_is_transient(condition, kind):
    error = attach_refused(AmqpError(condition), any_session=False)
    assert isinstance(error, TransientError)
    assert error.kind == kind
    assert error.condition == condition


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("amqp:not-found", LossReason.ENTITY_GONE),
        ("com.microsoft:entity-disabled", LossReason.ENTITY_GONE),
        ("amqp:unauthorized-access", LossReason.UNAUTHORIZED),
        ("com.microsoft:auth-failed", LossReason.UNAUTHORIZED),
        ("amqp:not-allowed", LossReason.REFUSED),
        ("amqp:not-implemented", LossReason.REFUSED),
    ],
)
def test_a_refusal_for_good_is_final(condition, reason):
    error = attach_refused(AmqpError(condition), any_session=False)
    assert isinstance(error, LeaseLostError)
    assert error.reason == reason


def test_no_session_being_free_is_empty_and_not_a_timeout():
    error = attach_refused(AmqpError("com.microsoft:timeout"), any_session=True)
    assert isinstance(error, TransientError)
    assert error.kind == "empty"


@pytest.mark.parametrize(
    ("status", "condition", "reason"),
    [
        (410, "com.microsoft:session-lock-lost", LossReason.EXPIRED),
        (410, None, LossReason.EXPIRED),
        (500, "com.microsoft:session-lock-lost", LossReason.EXPIRED),
        (401, None, LossReason.UNAUTHORIZED),
        (404, "amqp:not-found", LossReason.ENTITY_GONE),
    ],
)
def test_a_renewal_can_be_refused_for_good(status, condition, reason):
    error = renewal_refused(status, condition, "words")
    assert isinstance(error, LeaseLostError)
    assert error.reason == reason


@pytest.mark.parametrize(
    ("status", "condition", "kind"),
    [
        (503, "com.microsoft:server-busy", "busy"),
        (503, None, "busy"),
        (429, None, "throttled"),
        (408, None, "timeout"),
        (404, None, "not_found"),
        (500, None, "server"),
        (400, "com.microsoft:argument-error", "server"),
        (777, "com.example:what", "server"),
        (-1, None, "server"),
    ],
)
def test_a_renewal_can_be_refused_for_now(status, condition, kind):
    error = renewal_refused(status, condition, None)
    assert isinstance(error, TransientError)
    assert error.kind == kind


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("com.microsoft:session-lock-lost", LossReason.EXPIRED),
        ("amqp:link:detach-forced", LossReason.DETACHED),
        ("amqp:link:stolen", LossReason.SUPERSEDED),
        ("amqp:unauthorized-access", LossReason.UNAUTHORIZED),
        ("amqp:not-found", LossReason.ENTITY_GONE),
        ("com.microsoft:entity-disabled", LossReason.ENTITY_GONE),
        ("amqp:connection:forced", LossReason.DETACHED),
        ("com.example:never-heard-of", LossReason.DETACHED),
    ],
)
def test_a_detach_says_why_the_lease_is_lost(condition, reason):
    assert loss_of(AmqpError(condition)) is reason


def test_a_detach_without_error_is_a_detach():
    assert loss_of(None) is LossReason.DETACHED


def test_a_detached_request_link_says_nothing_about_a_lock():
    for condition in ("amqp:not-found", "com.microsoft:session-lock-lost", "amqp:unauthorized-access"):
        assert isinstance(pair_refused(AmqpError(condition), "q/$management"), TransientError)


def test_the_brokers_words_are_shown_without_signatures_and_on_one_line():
    text = describe(
        AmqpError(
            "amqp:unauthorized-access", "bad token SharedAccessSignature sr=x&sig=abc%3d&se=1\nTracking " + "x" * 999
        ),
        "",
    )
    assert "abc" not in text
    assert "\n" not in text
    assert len(text) <= 300


def test_a_correlation_id_is_understood_in_every_form():
    value = uuid.uuid4()
    assert correlation_key(value) == correlation_key(str(value)) == correlation_key(value.bytes) == value.bytes
    assert correlation_key("no uuid") is None
    assert correlation_key(None) is None
    assert correlation_key(7) is None


def test_a_request_that_holds_a_token_does_not_show_it():
    template = Template.of("SharedAccessSignature sig=abc", {"operation": "put-token"}, reply_to="$cbs")
    assert "abc" not in repr(template)
    message_id = uuid.uuid4()
    message = Message.decode(template.render(message_id.bytes))
    assert message.properties.message_id == message_id
    assert message.body == Value("SharedAccessSignature sig=abc")


# Message locks and state --------------------------------------------------------------------------------------------


def test_a_message_that_is_gone_has_no_lock():
    error = renewal_refused(404, "com.microsoft:message-not-found", None)
    assert isinstance(error, LeaseLostError)
    assert error.reason == LossReason.EXPIRED


def test_no_room_stays_no_room_for_each_of_those_who_wait():
    assert isinstance(copy_of(NoRoomError()), NoRoomError)


def test_a_copy_of_an_error_can_say_something_else_and_mean_the_same():
    transient = copy_of(TransientError("a", kind="busy", retry_after_s=2.0, condition="c"), text="b")
    assert isinstance(transient, TransientError)
    assert (str(transient), transient.kind, transient.retry_after_s, transient.condition) == ("b", "busy", 2.0, "c")
    lost = copy_of(LeaseLostError("a", reason="expired", condition="c"), text="b")
    assert isinstance(lost, LeaseLostError)
    assert (str(lost), lost.reason, lost.condition) == ("b", "expired", "c")


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (LossReason.UNAUTHORIZED, "unauthorized"),
        (LossReason.ENTITY_GONE, "not_found"),
        (LossReason.REFUSED, "server"),
    ],
)
def test_a_refusal_can_be_read_as_saying_nothing_about_a_lock(reason, kind):
    error = passing(LeaseLostError("no", reason=reason, condition="c"))
    assert (error.kind, error.condition, str(error)) == (kind, "c", "no")


def test_a_template_knows_the_size_of_its_requests():
    ask = set_session_state("orders", b"x" * 1000, link_name="l", session_id="s", timeout_s=10)
    assert ask.size == len(ask.render(uuid.uuid4().bytes))


@pytest.mark.parametrize(("timeout_s", "told_ms"), [(0.0, 1000), (30.5, 30_500), (300.0, 60_000)])
def test_the_broker_is_told_how_long_it_may_take_within_reason(timeout_s, told_ms):
    ask = renew_message_locks("orders", [uuid.uuid4()], lock_s=timeout_s)
    fields = Message.decode(ask.render(uuid.uuid4().bytes)).application_properties
    assert fields["com.microsoft:server-timeout"] == told_ms


def test_several_locks_are_renewed_with_one_request_and_read_in_order():
    tokens = [uuid.uuid4(), uuid.uuid4()]
    message = Message.decode(renew_message_locks("orders", tokens, lock_s=30).render(uuid.uuid4().bytes))
    assert isinstance(message.body, Value)
    assert [*message.body.value["lock-tokens"]] == tokens
    reply = Reply(200, None, None, {"expirations": AmqpArray([Timestamp(2000), Timestamp(1500)])}, 0.0, 0.0)
    assert read_expirations(reply, 2) == [2.0, 1.5]
