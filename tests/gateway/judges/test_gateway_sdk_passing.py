"""What the official SDK does with the broker it does through a gateway that only passes frames, with the same outcome.

The scenarios are the tests of the emulator; here the connection string leads through the gateway. All go on at once,
each in a thread with a client of its own: the SDK spends most of its time asleep.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import anyio
import pytest
from azure.servicebus import ServiceBusClient
from azure.servicebus import aio as aio_sdk

from tests.emulator import test_sdk_aio as aio
from tests.emulator import test_sdk_sync as sync
from tests.gateway.judges.gateway_process import JudgedBroker, gateways_before, judged_broker

BLOCKING = {
    scenario.__name__.removeprefix("test_"): scenario
    for scenario in (
        sync.test_messages_are_sent_one_by_one_and_in_batches_and_received,
        sync.test_a_session_is_accepted_renewed_and_keeps_its_state,
        sync.test_messages_of_a_session_are_settled_in_every_way,
        sync.test_a_plain_queue_settles_in_every_way,
        sync.test_the_next_session_is_the_one_with_messages,
        sync.test_a_second_holder_is_refused,
        sync.test_a_lock_that_ran_out_is_lost,
        sync.test_the_lock_of_a_message_runs_out,
        sync.test_receive_and_delete_peek_and_schedule,
        sync.test_subscriptions_get_what_is_sent_to_their_topic,
        sync.test_what_is_not_there_or_does_not_fit_is_said,
    )
}
ASYNC = {
    scenario.__name__.removeprefix("test_"): scenario
    for scenario in (
        aio.test_a_session_from_accept_to_release,
        aio.test_the_next_session_and_the_list_of_sessions,
        aio.test_a_receiver_that_waits_gets_the_session_that_comes_up,
        aio.test_a_second_holder_is_refused,
        aio.test_a_lock_that_is_taken_away_is_lost_though_the_client_believes_in_it,
        aio.test_a_plain_queue,
    )
}
PATIENCE_S = 60


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[str, Future[None]]]:
    with (
        judged_broker() as broker,
        gateways_before(broker.connection_string) as gateways,
        ThreadPoolExecutor(len(BLOCKING) + len(ASYNC)) as threads,
    ):
        rig = broker.through(gateways, "passing")
        yield {
            **{f"sync {name}": threads.submit(run, rig, scenario) for name, scenario in BLOCKING.items()},
            **{f"aio {name}": threads.submit(anyio.run, run_aio, rig, scenario) for name, scenario in ASYNC.items()},
        }


def run(rig: JudgedBroker, scenario: Callable[[JudgedBroker, ServiceBusClient], None]) -> None:
    with ServiceBusClient.from_connection_string(rig.connection_string, retry_total=0) as client:
        scenario(rig, client)


async def run_aio(
    rig: JudgedBroker, scenario: Callable[[JudgedBroker, aio_sdk.ServiceBusClient], Awaitable[None]]
) -> None:
    async with aio_sdk.ServiceBusClient.from_connection_string(rig.connection_string, retry_total=0) as client:
        await scenario(rig, client)


@pytest.mark.parametrize("name", BLOCKING)
def test_code_that_blocks_sees_what_it_sees_directly(outcomes: dict[str, Future[None]], name: str) -> None:
    outcomes[f"sync {name}"].result(PATIENCE_S)


@pytest.mark.parametrize("name", ASYNC)
def test_asyncio_sees_what_it_sees_directly(outcomes: dict[str, Future[None]], name: str) -> None:
    outcomes[f"aio {name}"].result(PATIENCE_S)
