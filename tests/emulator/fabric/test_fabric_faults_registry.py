from datetime import UTC, datetime, timedelta

import pytest

from renewer.emulator.faults import MAX_FAULTS, Fault, FaultAction, Faults, ScriptError
from renewer.errors import UsageError

POLL = "fabric.poll"


def fired(faults: Faults, point: str, count: int, **attributes: object) -> list[int]:
    """Ordinals of the requests, counted from 1, that met a fault."""
    return [n for n in range(1, count + 1) if faults.pick(point, **attributes) is not None]


def test_nothing_goes_wrong_where_nothing_was_scripted():
    assert Faults().pick(POLL) is None


def test_a_fault_fires_on_every_nth_matching_request():
    faults = Faults()
    faults.add(Fault(on=POLL, action=FaultAction.RESET, every=3))
    assert fired(faults, POLL, 10) == [3, 6, 9]


def test_a_fault_is_spent_after_its_times():
    faults = Faults()
    faults.add(Fault(on=POLL, action=FaultAction.RESET, times=2))
    assert fired(faults, POLL, 5) == [1, 2]
    [state] = faults.list()
    assert (state.seen, state.fired, state.spent) == (2, 2, True)


def test_two_faults_of_the_same_frequency_both_get_their_share():
    faults = Faults()
    faults.add(Fault(on=POLL, action=FaultAction.LOSE_REPLY, every=50))
    faults.add(Fault(on=POLL, action=FaultAction.BUSY, every=50))
    picked = [faults.pick(POLL) for _ in range(200)]
    assert [fault.action for fault in picked if fault] == [FaultAction.LOSE_REPLY, FaultAction.BUSY] * 3 + [
        FaultAction.LOSE_REPLY
    ]


def test_only_requests_with_every_matching_attribute_count():
    faults = Faults()
    faults.add(Fault(on=POLL, action=FaultAction.RESET, match={"entity": "orders", "session_id": "customer-*"}))
    assert fired(faults, POLL, 1, entity="orders", session_id="other") == []
    assert fired(faults, POLL, 1, entity="orders") == []
    assert fired(faults, POLL, 1, entity="orders", session_id=None) == []
    assert fired(faults, POLL, 1, entity="orders", session_id="customer-42") == [1]


def test_numbers_and_booleans_match_by_their_text():
    faults = Faults()
    faults.add(Fault(on=POLL, action=FaultAction.RESET, match={"attempt": 7, "early": True}))
    assert fired(faults, POLL, 1, attempt="7", early=True) == [1]
    assert fired(faults, POLL, 1, attempt=7, early=False) == []


def test_a_value_with_brackets_matches_itself():
    faults = Faults()
    faults.add(Fault(on=POLL, action=FaultAction.RESET, match={"session_id": "a[1]"}))
    assert fired(faults, POLL, 1, session_id="a[1]") == [1]


def test_a_pattern_of_points_covers_those_where_the_action_makes_sense():
    faults = Faults()
    faults.add(Fault(on="*", action=FaultAction.DETACH))
    assert fired(faults, "fabric.poll", 1) == []
    assert fired(faults, "servicebus.attach", 1) == [1]


def test_a_removed_fault_no_longer_fires():
    faults = Faults()
    kept = faults.add(Fault(on=POLL, action=FaultAction.BUSY))
    removed = faults.add(Fault(on=POLL, action=FaultAction.RESET))
    assert faults.remove(removed)
    assert not faults.remove(removed)
    assert [state.id for state in faults.list()] == [kept]
    faults.clear()
    assert faults.list() == []
    assert faults.pick(POLL) is None


def test_requests_are_counted_by_point():
    faults = Faults()
    for _ in range(3):
        faults.pick(POLL)
    faults.pick("servicebus.cbs")
    assert dict(faults.seen) == {POLL: 3, "servicebus.cbs": 1}


def test_spent_faults_make_room_when_the_registry_is_full():
    faults = Faults()
    faults.add(Fault(on=POLL, action=FaultAction.BUSY, times=1))
    faults.pick(POLL)
    for _ in range(MAX_FAULTS):
        faults.add(Fault(on=POLL, action=FaultAction.BUSY))
    with pytest.raises(ScriptError, match="remove some first"):
        faults.add(Fault(on=POLL, action=FaultAction.BUSY))


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"on": "fabric.pol"}, "on"),
        ({"action": FaultAction.DETACH}, "action"),
        ({"times": 0}, "times"),
        ({"every": 0}, "every"),
        ({"action": FaultAction.DELAY}, "delay_s"),
        ({"delay_s": -1.0}, "delay_s"),
        ({"delay_s": float("nan")}, "delay_s"),
        ({"action": FaultAction.STATUS}, "status"),
        ({"status": 99}, "status"),
        ({"retry_after": -1}, "retry_after"),
        ({"retry_after": "1\r\nX-Evil: 1"}, "retry_after"),
        ({"condition": "a\nb"}, "condition"),
    ],
)
def test_a_fault_that_cannot_be_played_is_refused_with_the_field_named(fields, wrong):
    with pytest.raises(ScriptError) as caught:
        Fault(**{"on": POLL, "action": FaultAction.RESET, **fields})
    assert caught.value.field == wrong
    assert caught.value.remedy
    assert isinstance(caught.value, UsageError)


def test_the_servers_clock_is_shifted_by_its_offset():
    true_now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    faults = Faults(utc_now=lambda: true_now)
    assert faults.utc_now() == true_now
    faults.clock_offset_s = -3600
    assert faults.utc_now() == true_now - timedelta(hours=1)
    faults.clear()
    assert faults.clock_offset_s == -3600


def test_the_servers_clock_is_utc_by_default():
    assert Faults().utc_now().utcoffset() == timedelta(0)


@pytest.mark.parametrize("offset_s", [float("nan"), float("inf"), 1e12, -1e12])
def test_an_impossible_clock_offset_is_refused(offset_s):
    faults = Faults()
    with pytest.raises(ScriptError, match="offset_s"):
        faults.clock_offset_s = offset_s
    assert faults.clock_offset_s == 0
