"""The official SDK, unmodified, with its loop or thread blocked for longer than its locks last.

All scenarios block at the same time, each in a thread with clients of its own: what takes real time takes it once.
`make soak` runs them with locks of 10 s and workers that block for a minute.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
from azure.servicebus.exceptions import MessageLockLostError, SessionLockLostError

from tests.gateway.judges.gateway_process import NEEDS_GATEWAY, gateways_before, judged_broker
from tests.gateway.judges.keeping_scenarios import (
    ASYNC,
    BLOCKING,
    Scene,
    a_dead_letter_queue,
    a_loop_that_holds_a_session,
    a_thread_that_holds_a_session,
)

pytestmark = NEEDS_GATEWAY

LOST: list[Callable[[Scene], object]] = [
    a_loop_that_holds_a_session,
    a_thread_that_holds_a_session,
    a_dead_letter_queue,
]
Outcomes = dict[tuple[bool, str], Future[Any]]


@contextmanager
def outcomes_of(lock_s: float, blocked_s: float) -> Iterator[Outcomes]:
    with (
        judged_broker() as broker,
        gateways_before(broker.connection_string) as gateways,
        ThreadPoolExecutor(len(BLOCKING) + len(ASYNC) + len(LOST)) as threads,
    ):
        through = Scene(broker, gateways, lock_s, blocked_s)
        past = Scene(broker, gateways, lock_s, blocked_s, direct=True)
        yield {
            (scene.direct, scenario.__name__): threads.submit(play, scenario, scene)
            for scene, scenarios in ((through, BLOCKING + ASYNC), (past, LOST))
            for scenario in scenarios
        }


def play(scenario: Callable[[Scene], Any], scene: Scene) -> None:
    if inspect.iscoroutinefunction(scenario):
        anyio.run(scenario, scene)
    else:
        scenario(scene)


@pytest.fixture(scope="module")
def outcomes() -> Iterator[Outcomes]:
    with outcomes_of(lock_s=7.0, blocked_s=10.0) as outcomes:
        yield outcomes


@pytest.mark.parametrize("scenario", BLOCKING + ASYNC, ids=lambda scenario: scenario.__name__)
def test_locks_are_kept(outcomes: Outcomes, scenario: Callable[[Scene], object]) -> None:
    outcomes[False, scenario.__name__].result(120)


@pytest.mark.parametrize("scenario", LOST, ids=lambda scenario: scenario.__name__)
def test_without_the_gateway_they_are_lost(outcomes: Outcomes, scenario: Callable[[Scene], object]) -> None:
    with pytest.raises((SessionLockLostError, MessageLockLostError)):
        outcomes[True, scenario.__name__].result(120)


@pytest.mark.soak
def test_locks_of_ten_seconds_are_kept_through_a_blocked_minute() -> None:
    with outcomes_of(lock_s=10.0, blocked_s=60.0) as outcomes:
        failed = {
            key: error
            for key, outcome in outcomes.items()
            if not key[0] and (error := outcome.exception(400)) is not None
        }
    assert failed == {}
