"""Sessions and message locks as blocks of blocking code."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime

import pytest

from renewer.client import (
    Client,
    Conflict,
    LockAtRisk,
    LockError,
    LockLost,
    SessionLost,
    Timeout,
    Unavailable,
)
from tests.client.standin import problem

LIMIT_S = 20


class Losses:
    """What a session's owner was told, and where to wait for it."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.threads: list[str] = []
        self._changed = threading.Condition()

    def lost(self, _session, reason, detail):
        self._add(reason, detail)

    def at_risk(self, _session, detail):
        self._add("at_risk", detail)

    def _add(self, what, detail):
        with self._changed:
            self.told.append((what, detail))
            self.threads.append(threading.current_thread().name)
            self._changed.notify_all()

    def wait(self, count=1):
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.told) >= count, LIMIT_S)

    @property
    def reasons(self):
        return [what for what, _ in self.told]


@pytest.fixture
def client(standin):
    with Client(standin.api, timeout=5, retry_for=0) as client:
        yield client


def test_a_session_is_held_for_the_length_of_the_block(standin, client):
    with client.session("orders", "c", labels={"a": "b"}, lock_duration="30s") as session:
        assert (session.session_id, session.epoch, session.is_lost, session.is_at_risk) == ("c", 1, False, False)
        assert session.lease_id == "lease-1"
        assert session.locked_until_utc > datetime.now(UTC)
        assert session.lease.state == "held"
        standin.until(lambda: standin.owners == {session.lease.id: 1})
        body = standin.requests("POST", "/v1/leases")[0].json
        assert body == {
            "entity": "orders",
            "kind": "session",
            "session_id": "c",
            "lock_duration": 30.0,
            "reacquire": False,
            "labels": {"a": "b"},
            "owner": {"kind": "connection"},
        }
    assert standin.only_lease()["state"] == "released"
    standin.until(lambda: standin.owners == {"lease-1": 0})
    assert not [thread for thread in threading.enumerate() if thread.name == "renewer-lease-1"]


def test_the_next_available_session_tells_its_id(client):
    with client.session("orders") as session:
        assert session.session_id == "next"


def test_a_session_carries_state(client):
    with client.session("orders", "c") as session:
        assert session.get_state() is None
        session.set_state("grüße")
        assert session.get_state() == "grüße".encode()
        session.set_state(b"\x00\xff")
        assert session.get_state(timeout=5) == b"\x00\xff"
        session.set_state(None)
        assert session.get_state() is None


def test_renewing_says_until_when(standin, client):
    with client.session("orders", "c") as session:
        standin.lock_duration_s = 300.0
        before = session.locked_until_utc
        until = session.renew_lock(timeout=3)
        assert until is not None
        assert until > before
        assert session.locked_until_utc == until
        assert ("wait", "3.000") in standin.requests("POST", "/v1/leases/lease-1/renew")[0].query


def test_renewals_of_the_daemon_move_the_lock_on(standin, client):
    with client.session("orders", "c") as session:
        before = session.locked_until_utc
        standin.tell("lease-1", "lease.renewed", margin_s=14.5)
        wait_for(lambda: session.lease.renewals == 1)
        assert session.locked_until_utc > before
        assert session.lease.last_margin_s == 14.5


def test_a_loss_is_told_once_and_raised_when_the_session_is_used(standin, client):
    losses = Losses()
    with (
        pytest.raises(SessionLost, match=r"session 'c' of orders was lost: detached \(taken away\)") as caught,
        client.session("orders", "c", on_lost=losses.lost) as session,
    ):
        standin.tell("lease-1", "lease.lost", reason="detached", detail="taken away")
        losses.wait()
        assert session.is_lost
        session.get_state()
    assert losses.told == [("detached", "taken away")]
    assert losses.threads == ["renewer-lease-1"]
    assert (caught.value.reason, caught.value.detail) == ("detached", "taken away")


def test_a_loss_that_the_block_did_not_notice_is_raised_when_it_is_left(standin, client):
    losses = Losses()
    with pytest.raises(SessionLost), client.session("orders", "c", on_lost=losses.lost):
        standin.tell("lease-1", "lease.lost", reason="expired")
        losses.wait()
    assert losses.reasons == ["expired"]


def test_an_error_of_the_block_after_a_loss_is_the_cause(standin, client):
    losses = Losses()
    with pytest.raises(SessionLost) as caught, client.session("orders", "c", on_lost=losses.lost):
        standin.tell("lease-1", "lease.lost", reason="expired")
        losses.wait()
        raise ValueError("mine")
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_error_of_the_block_passes_and_the_session_is_given_back(standin, client):
    with pytest.raises(ValueError, match="mine"), client.session("orders", "c"):
        raise ValueError("mine")
    assert standin.only_lease()["state"] == "released"


def test_a_callback_that_fails_does_not_hide_the_loss(standin, client, caplog):
    called = threading.Event()

    def fail(*_):
        called.set()
        raise ValueError("mine")

    with pytest.raises(SessionLost), client.session("orders", "c", on_lost=fail):
        standin.tell("lease-1", "lease.lost", reason="expired")
        assert called.wait(LIMIT_S)
    assert "a callback of lease-1 failed" in caplog.text


def test_risk_is_told_and_goes_by(standin, client):
    losses = Losses()
    with client.session("orders", "c", on_at_risk=losses.at_risk, on_lost=losses.lost) as session:
        standin.tell("lease-1", "lease.at_risk", detail="no answer")
        losses.wait()
        assert session.is_at_risk
        assert not session.is_lost
        for use in (session.check, session.get_state, lambda: session.set_state("x"), session.renew_lock):
            with pytest.raises(LockAtRisk, match="session 'c' of orders is at risk: no answer") as caught:
                use()
            assert isinstance(caught.value, LockError)
            assert not isinstance(caught.value, LockLost)
        standin.tell("lease-1", "lease.recovered")
        wait_for(lambda: not session.is_at_risk)
        session.check()
        session.set_state("x")
    assert losses.told == [("at_risk", "no answer")]


def test_a_risk_that_ends_the_block_gives_the_session_back(standin, client):
    losses = Losses()
    with pytest.raises(LockAtRisk), client.session("orders", "c", on_at_risk=losses.at_risk) as session:
        standin.tell("lease-1", "lease.at_risk")
        losses.wait()
        session.check()
    assert standin.only_lease()["state"] == "released"


def test_what_is_known_too_long_ago_is_asked_about_before_it_is_relied_on(standin, client):
    standin.lock_duration_s = 0.8
    with client.session("orders", "c") as session:
        over_at = time.monotonic() + 1.5
        while time.monotonic() < over_at:
            session.check()
            assert not session.is_lost


def test_an_answer_that_speaks_of_a_loss_is_told_as_one(standin, client):
    losses = Losses()
    with pytest.raises(SessionLost), client.session("orders", "c", on_lost=losses.lost) as session:
        # The stream says nothing; the daemon's answer does.
        standin.change("lease-1", state="lost", last_loss={"reason": "refused", "detail": "x", "epoch": 1})
        session.set_state(b"x")
    assert losses.told == [("refused", "x")]


def test_a_stream_that_breaks_is_a_risk_until_the_daemon_shows_the_same_epoch(standin, client):
    losses = Losses()
    with client.session("orders", "c", on_lost=losses.lost, on_at_risk=losses.at_risk) as session:
        standin.until(lambda: standin.owners == {"lease-1": 1})
        standin.break_streams()
        losses.wait()
        standin.until(lambda: len(standin.requests("GET", "/v1/leases/lease-1/events")) == 2)
        wait_for(lambda: not session.is_at_risk)
        standin.tell("lease-1", "lease.renewed")
        wait_for(lambda: session.lease.renewals == 1)
    assert losses.reasons == ["at_risk"]
    assert "broke off" in losses.told[0][1]


def test_a_message_survives_the_daemon_until_its_time_is_over(standin, client):
    losses = Losses()
    standin.lock_duration_s = 1.0
    with (
        pytest.raises(LockLost, match="daemon_gone"),
        client.message_lock("orders", "0ddba11", on_lost=losses.lost, on_at_risk=losses.at_risk),
    ):
        standin.kill()
        losses.wait()
    assert losses.reasons == ["daemon_gone"]


def test_a_daemon_that_comes_back_with_another_epoch_has_lost_the_session(standin, client):
    losses = Losses()
    with pytest.raises(SessionLost), client.session("orders", "c", on_lost=losses.lost, on_at_risk=losses.at_risk):
        standin.kill()
        losses.wait()  # at risk, as nobody answers
        standin.leases["lease-1"] |= {
            "epoch": 2,
            "losses": 1,
            "last_loss": {"reason": "connection_lost", "detail": "the daemon was restarted", "epoch": 1},
        }
        standin.start()
        losses.wait(2)
    assert losses.reasons == ["at_risk", "connection_lost"]


def test_a_daemon_that_stays_away_until_the_lock_is_over_has_lost_it(standin, client):
    losses = Losses()
    standin.lock_duration_s = 1.0
    with (
        pytest.raises(SessionLost, match="daemon_gone"),
        client.session("orders", "c", on_lost=losses.lost, on_at_risk=losses.at_risk),
    ):
        standin.kill()
        losses.wait(2)
    assert losses.reasons == ["at_risk", "daemon_gone"]
    assert losses.told[1][1] == f"the daemon at {standin.api} does not answer"


def test_a_daemon_that_forgot_the_lease_has_lost_it(standin, client):
    losses = Losses()
    with pytest.raises(SessionLost), client.session("orders", "c", on_lost=losses.lost):
        standin.do(lambda: standin.leases.clear())
        standin.break_streams()
        losses.wait()
    assert losses.reasons == ["forgotten"]


@pytest.mark.parametrize(("event", "reason"), [("lease.released", "released"), ("lease.parked", "parked")])
def test_a_session_that_somebody_else_let_go_is_lost(standin, client, event, reason):
    losses = Losses()
    with pytest.raises(SessionLost), client.session("orders", "c", on_lost=losses.lost):
        standin.tell("lease-1", event)
        losses.wait()
    assert losses.reasons == [reason]


def test_a_lock_whose_renewals_are_not_heard_of_is_asked_about(standin, client):
    standin.lock_duration_s = 0.5
    with client.session("orders", "c") as session:
        standin.until(lambda: len(standin.requests("GET", "/v1/leases/lease-1")) >= 2)
        assert not session.is_lost


def test_a_session_that_is_kept_for_somebody_else_is_asked_for_again(standin, client):
    first = client.hold("orders", "c", owner="pid", pid=7)

    def release():
        standin.until(lambda: len(standin.requests("POST", "/v1/leases")) >= 3)
        standin.tell(first.id, "lease.released")

    helper = threading.Thread(target=release)
    helper.start()
    with client.session("orders", "c", wait="30s") as session:
        assert session.lease_id != first.id
    helper.join()
    keys = [seen.headers["idempotency-key"] for seen in standin.requests("POST", "/v1/leases")]
    assert len(set(keys)) == len(keys) >= 4


def test_a_wait_whose_stream_broke_begins_anew(standin, client):
    standin.refuses, standin.refusal = 2, "owner_gone"
    with client.session("orders", "c", wait="30s") as session:
        assert session.session_id == "c"
    assert len(standin.requests("POST", "/v1/leases")) == 3
    assert list(standin.leases) == ["lease-1"]  # the others were forgotten


@pytest.mark.parametrize("reason", ["refused", "unauthorized", "entity_gone"])
def test_a_session_that_cannot_be_had_is_an_error_at_once(standin, client, reason):
    standin.refuses, standin.refusal = 1, reason
    with pytest.raises(SessionLost) as caught:
        client.session("orders", "c", wait=None).__enter__()
    assert str(caught.value) == "session 'c' of orders cannot be had: no sessions here"
    assert caught.value.reason == reason
    assert standin.leases == {}


def test_a_session_that_another_worker_holds_is_not_shared(standin, client):
    with client.session("orders", "c"):
        with pytest.raises(Conflict, match="kept already, by lease-1"):
            client.session("orders", "c", wait=0).__enter__()
        with pytest.raises(Timeout) as caught:
            client.session("orders", "c", wait=0.2).__enter__()
        assert str(caught.value) == (
            "session 'c' of orders is kept already, by lease-1 (owner connection, since 52 s);"
            " it was not given back in 0.2 s"
        )
        assert standin.only_lease()["state"] == "held"


def test_a_session_that_is_kept_for_nobody_in_particular_is_not_ours_either(client):
    client.hold("orders", "c")
    with pytest.raises(Conflict, match=r"kept already, by lease-1 \(owner none\)"):
        client.session("orders", "c", owner="none", wait=0).__enter__()


def test_a_session_that_is_not_granted_in_time_is_given_up(standin, client):
    standin.grants = False
    with pytest.raises(Timeout, match=r"session 'c' of orders could not be had in 0.2 s"):
        client.session("orders", "c", wait="200ms").__enter__()
    assert standin.leases == {}


def test_a_session_that_is_granted_later_is_waited_for(standin, client):
    standin.grants = False
    entered = threading.Event()

    def grant():
        standin.until(lambda: standin.owners == {"lease-1": 1})
        standin.tell("lease-1", "lease.acquired")
        entered.wait(LIMIT_S)

    helper = threading.Thread(target=grant)
    helper.start()
    with client.session("orders", "c") as session:
        entered.set()
        assert session.epoch == 1
    helper.join()


def test_heartbeats_are_sent_where_they_are_asked_for(standin, client):
    with client.session("orders", "c", owner="heartbeat", owner_ttl=0.3):
        standin.until(lambda: len(standin.requests("POST", "/v1/leases/lease-1/heartbeat")) >= 3)
        assert standin.owners == {}
    assert standin.requests("POST", "/v1/leases")[0].json["owner"] == {"kind": "heartbeat", "ttl": 0.3}


def test_the_lock_of_a_message_is_kept(standin, client):
    until = datetime(2030, 1, 2, tzinfo=UTC)
    with client.message_lock("orders", "0ddba11", locked_until_utc=until) as lock:
        assert lock.lease.kind == "message"
        assert "0ddba11" not in repr(lock)
        lock.renew_lock()
    body = standin.requests("POST", "/v1/leases")[0].json
    assert (body["kind"], body["lock_token"]) == ("message", "0ddba11")
    assert body["locked_until_utc"] == "2030-01-02T00:00:00+00:00"
    with (
        pytest.raises(LockLost, match="the message of orders was lost: expired") as caught,
        client.message_lock("orders", "0ddba11") as lock,
    ):
        standin.tell(lock.lease.id, "lease.lost", reason="expired")
        wait_for(lambda: lock.is_lost)
    assert not isinstance(caught.value, SessionLost)


def test_a_daemon_that_is_gone_when_the_block_is_left_is_no_error_if_the_lease_has_an_owner(standin, caplog):
    with Client(standin.api, retry_for=3600) as client, client.session("orders", "c"):
        standin.kill()
    (told,) = [record for record in caplog.records if record.name == "renewer.client"]
    assert told.levelname == "WARNING"
    assert "session 'c' of orders (lease-1) could not be given back" in told.getMessage()
    assert f"no daemon answers at {standin.api}; if the daemon has ended, the session is free" in told.getMessage()


def test_a_release_that_fails_does_not_hide_the_error_of_the_block(standin, client, caplog):
    standin.answers["DELETE", "/v1/leases/lease-1"] = problem(503, "it cannot be stored")
    with pytest.raises(ValueError, match="mine"), client.session("orders", "c", owner="none"):
        raise ValueError("mine")
    assert "it cannot be stored; give it back with `renewer lease release lease-1`" in caplog.text


def test_a_release_that_fails_is_an_error_only_where_nobody_else_gives_the_lock_back(standin, client, caplog):
    standin.answers["DELETE", "/v1/leases/lease-1"] = problem(503, "it cannot be stored")
    with pytest.raises(Unavailable, match="cannot be stored"), client.session("orders", "c", owner="none"):
        pass
    assert caplog.text == ""
    standin.answers["DELETE", "/v1/leases/lease-2"] = problem(503, "it cannot be stored")
    with client.session("orders", "d", owner="heartbeat"):
        pass
    assert "cannot be stored" in caplog.text


def wait_for(condition):
    """For what changes in another thread without a sign."""
    over_at = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < over_at
        time.sleep(0.005)
