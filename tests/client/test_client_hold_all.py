"""Many sessions asked for with few requests: what is asked, and what is made of the answers."""

from __future__ import annotations

import json
from collections import deque

import pytest

from renewer.client import Conflict, Lease, ProtocolError, leasecalls, plans
from renewer.client.address import find
from renewer.client.wire import Answer

PER_REQUEST = 250
MOMENT_S = 0.2


class Daemon:
    """Answers requests as told: state by session id. Time passes only while it is asked to wait."""

    def __init__(self, states=(), refused=()) -> None:
        self.now = 0.0
        self.states = dict(states)
        self.refused = set(refused)
        self.asked: list[tuple[int, float, str | None]] = []

    def answer(self, request):
        wishes = json.loads(request.content)["leases"]
        wait_s = float(dict(request.params).get("wait", "0").rstrip("s"))
        self.asked.append((len(wishes), wait_s, request.headers.get("Idempotency-Key")))
        return Answer(200, {}, json.dumps({"items": [self._item(wish, wait_s) for wish in wishes]}).encode())

    def _item(self, wish, wait_s):
        name = wish["session_id"]
        if name in self.refused:
            return {"status": 409, "problem": {"status": 409, "detail": "kept already", "lease": "lease-x"}}
        states = self.states.get(name, deque(["held"]))
        if wait_s and len(states) > 1:
            self.now += wait_s
            states.popleft()
        return {"status": 201, "lease": {"id": f"lease-{name}", "session_id": name, "state": states[0]}}


def hold_all(daemon, count, wait_s=0.0, owner="none"):
    wishes = [leasecalls.LeaseWish("orders", str(number), owner=owner) for number in range(count)]
    terms = plans.Terms(find("unix:/nowhere"), 0.0, lambda: daemon.now)
    plan = plans.hold_all(wishes, terms, wait_s=wait_s)
    try:
        step = next(plan)
        while True:
            step = plan.send(daemon.answer(step.request))
    except StopIteration as end:
        return end.value


def test_all_are_asked_for_before_any_is_waited_for_longer_than_a_moment():
    daemon = Daemon()
    found = hold_all(daemon, 2 * PER_REQUEST + 1, wait_s=20)
    assert [lease.session_id for lease in found] == [str(number) for number in range(2 * PER_REQUEST + 1)]
    moments = [(PER_REQUEST, MOMENT_S), (PER_REQUEST, MOMENT_S), (1, MOMENT_S)]
    assert [(count, wait_s) for count, wait_s, _ in daemon.asked] == moments


def test_those_that_one_request_asks_for_are_waited_for_at_once():
    daemon = Daemon()
    hold_all(daemon, PER_REQUEST, wait_s=20)
    assert [(count, wait_s) for count, wait_s, _ in daemon.asked] == [(PER_REQUEST, 20)]


def test_nobody_waits_for_longer_than_was_asked_for():
    daemon = Daemon({"0": deque(["acquiring"] * 9)})
    found = hold_all(daemon, PER_REQUEST + 1)
    assert [wait_s for _, wait_s, _ in daemon.asked] == [0, 0]
    assert found[0].state == "acquiring"


def test_those_that_are_still_being_acquired_are_asked_for_again():
    daemon = Daemon({"0": deque(["acquiring", "acquiring", "acquiring", "held"])})
    found = hold_all(daemon, PER_REQUEST + 1, wait_s=150)
    assert {lease.state for lease in found} == {"held"}
    assert [wait_s for _, wait_s, _ in daemon.asked] == [MOMENT_S, MOMENT_S, 60, 60]


def test_who_names_an_owner_finds_its_own_again_by_a_key():
    daemon = Daemon({"0": deque(["acquiring", "acquiring", "held"])})
    hold_all(daemon, PER_REQUEST + 1, wait_s=150, owner="heartbeat")
    first, last, again = (key for *_, key in daemon.asked)
    assert first == again != last
    daemon.asked.clear()
    hold_all(daemon, 1)
    assert [key for *_, key in daemon.asked] == [None]


def test_when_the_time_is_over_they_are_told_as_they_stand():
    daemon = Daemon({"0": deque(["acquiring"] * 9)})
    (lease,) = hold_all(daemon, 1, wait_s=30)
    assert lease.state == "acquiring"
    assert [wait_s for _, wait_s, _ in daemon.asked] == [30]


def test_what_hold_would_have_raised_stands_in_the_place_of_its_lease():
    first, second = hold_all(Daemon(refused={"0"}), 2, wait_s=5)
    assert isinstance(first, Conflict)
    assert (first.status, first.lease_id, str(first)) == (409, "lease-x", "kept already")
    assert isinstance(second, Lease)


def test_nothing_is_asked_for_none():
    daemon = Daemon()
    assert hold_all(daemon, 0, wait_s=5) == []
    assert daemon.asked == []


@pytest.mark.parametrize("document", [{"items": []}, {"items": [{"status": 201}]}, {"items": [{"lease": {}}]}, {}, []])
def test_an_answer_that_does_not_fit_is_no_renewers(document):
    call = leasecalls.register_leases([leasecalls.LeaseWish("orders", "a")], wait_s=0.0, idempotency_key="k")
    with pytest.raises(ProtocolError):
        call.read(Answer(200, {}, json.dumps(document).encode()))
