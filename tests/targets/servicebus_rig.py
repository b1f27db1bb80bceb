"""A `ServiceBusTarget` that runs against a scripted broker, and what it reported."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager

import anyio
import pytest

from renewer.core.model import LeaseId, LeaseSpec
from renewer.errors import TransientError
from renewer.targets.servicebus import NamespaceOptions, ServiceBusTarget
from renewer.targets.servicebus.credentials import SharedAccessKey
from tests.targets.scripted_broker import TestClock, scripted_broker


def spec(session_id="s1", *, entity="orders", lease_id=None):
    return LeaseSpec(LeaseId(lease_id or f"{entity}/{session_id}"), "servicebus.main", entity, session_id=session_id)


class Rig:
    """A target that runs against a scripted broker, and what it reported."""

    def __init__(self, broker, clock, provider=None, **changes):
        settings = {"hostname": "localhost", "host": "localhost", "port": 5672, "tls": False, "emulator": True}
        settings |= {"credential": SharedAccessKey("rule", "s3cret"), "connect_timeout_s": 5.0}
        self.broker = broker
        self.clock = clock
        self.losses = []
        self.skews = []
        self._lost = anyio.Event()
        self.target = ServiceBusTarget(
            NamespaceOptions(**(settings | changes)),
            clock,
            self._on_loss,
            rng=random.Random(7),
            on_skew=self.skews.append,
            connect=broker.connect,
            provider=provider,
        )
        self.stop = anyio.CancelScope()

    def _on_loss(self, loss):
        self.losses.append(loss)
        self._lost.set()
        self._lost = anyio.Event()

    async def until_lost(self, count=1):
        with anyio.fail_after(10):
            while len(self.losses) < count:
                await self._lost.wait()

    async def run(self, *, task_status):
        with self.stop:
            await self.target.run(task_status=task_status)
        self.broker.changed()


class Wanted:
    """A renewal that is wanted (`WantedRenewal`)."""

    def __init__(self, lease, epoch):
        self.spec = lease
        self.epoch = epoch
        self.renewal = None


def begin_renewal(target, lease, epoch, answered):
    """Begin one renewal by itself; None if nothing was asked."""
    wanted = Wanted(lease, epoch)
    target.begin_renewals([wanted], lambda those: [answered(one.renewal) for one in those])
    return wanted.renewal


@asynccontextmanager
async def rig(prepare=lambda broker: None, clock=None, **changes):
    async with scripted_broker() as broker:
        prepare(broker)
        made = Rig(broker, clock or TestClock(), **changes)
        async with anyio.create_task_group() as tasks:
            await tasks.start(made.run)
            with anyio.fail_after(30):
                yield made
            made.stop.cancel()


async def failing(awaitable, error_type):
    with pytest.raises(error_type) as caught:
        await awaitable
    return caught.value


async def renewed(r):
    """Renew, again and again while that fails for now."""
    while True:
        try:
            return await r.target.renew(spec(), 1)
        except TransientError:
            await anyio.lowlevel.checkpoint()
