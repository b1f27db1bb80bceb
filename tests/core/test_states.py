from __future__ import annotations

import pytest

from renewer.core.states import (
    LEASE_TRANSITIONS,
    OPERATION_TRANSITIONS,
    LeaseSignal,
    LeaseState,
    OperationState,
    is_over,
)

LEASE_ENDS = {LeaseState.LOST, LeaseState.RELEASED}
OPERATION_ENDS = {
    OperationState.SUCCEEDED,
    OperationState.FAILED,
    OperationState.CANCELED,
    OperationState.EXPIRED,
    OperationState.TIMED_OUT,
    OperationState.UNPOLLABLE,
    OperationState.REJECTED,
}


def test_both_tables_name_every_state() -> None:
    assert set(LEASE_TRANSITIONS) == set(LeaseState)
    assert set(OPERATION_TRANSITIONS) == set(OperationState)


def test_every_lease_state_can_be_reached_from_acquiring() -> None:
    reached, frontier = {LeaseState.ACQUIRING}, [LeaseState.ACQUIRING]
    while frontier:
        news = set(LEASE_TRANSITIONS[frontier.pop()].values()) - reached
        reached |= news
        frontier += news
    assert reached == set(LeaseState)


def test_every_operation_state_can_be_reached_from_accepted() -> None:
    reached, frontier = {OperationState.ACCEPTED}, [OperationState.ACCEPTED]
    while frontier:
        news = OPERATION_TRANSITIONS[frontier.pop()] - reached
        reached |= news
        frontier += news
    assert reached == set(OperationState)


@pytest.mark.parametrize("state", LeaseState)
def test_a_lease_is_over_when_it_is_lost_for_good_or_released(state: LeaseState) -> None:
    assert is_over(state) == (state in LEASE_ENDS)
    assert bool(LEASE_TRANSITIONS[state]) == (state not in LEASE_ENDS)


@pytest.mark.parametrize("state", OperationState)
def test_an_operation_is_over_in_its_seven_ends_and_nothing_follows_them(state: OperationState) -> None:
    assert is_over(state) == (state in OPERATION_ENDS)
    assert bool(OPERATION_TRANSITIONS[state]) == (state not in OPERATION_ENDS)


@pytest.mark.parametrize("state", [state for state in LeaseState if state not in LEASE_ENDS])
def test_a_living_lease_can_be_released_and_can_be_lost_for_good_from_anywhere(state: LeaseState) -> None:
    assert LEASE_TRANSITIONS[state][LeaseSignal.RELEASED] is LeaseState.RELEASED
    assert LEASE_TRANSITIONS[state][LeaseSignal.LOST_FOR_GOOD] is LeaseState.LOST


@pytest.mark.parametrize("state", [state for state in LeaseState if state not in LEASE_ENDS])
def test_a_grant_makes_any_living_lease_held(state: LeaseState) -> None:
    assert LEASE_TRANSITIONS[state][LeaseSignal.GRANTED] is LeaseState.HELD


def test_a_local_clock_alone_makes_a_lease_at_risk_and_never_lost() -> None:
    overdue = {row[LeaseSignal.OVERDUE] for row in LEASE_TRANSITIONS.values() if LeaseSignal.OVERDUE in row}
    assert overdue == {LeaseState.AT_RISK}
    assert [state for state, row in LEASE_TRANSITIONS.items() if LeaseSignal.OVERDUE in row] == [LeaseState.HELD]


def test_a_loss_that_is_not_final_leads_back_to_acquiring_from_where_there_was_a_lock() -> None:
    assert {state: row[LeaseSignal.LOST] for state, row in LEASE_TRANSITIONS.items() if LeaseSignal.LOST in row} == {
        LeaseState.HELD: LeaseState.ACQUIRING,
        LeaseState.AT_RISK: LeaseState.ACQUIRING,
    }


def test_nothing_leads_back_to_accepted() -> None:
    assert all(OperationState.ACCEPTED not in row for row in OPERATION_TRANSITIONS.values())


def test_only_a_first_request_can_be_rejected() -> None:
    assert [state for state, row in OPERATION_TRANSITIONS.items() if OperationState.REJECTED in row] == [
        OperationState.ACCEPTED
    ]


def test_an_operation_whose_result_is_being_fetched_has_succeeded_already() -> None:
    assert OPERATION_TRANSITIONS[OperationState.FETCHING] == {OperationState.SUCCEEDED}


def test_an_operation_can_end_in_every_way_without_ever_having_run() -> None:
    assert OPERATION_TRANSITIONS[OperationState.ACCEPTED] >= OPERATION_ENDS
