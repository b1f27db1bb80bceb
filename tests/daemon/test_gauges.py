"""What the daemon reads off its targets at each scrape."""

from __future__ import annotations

import random

import pytest

from renewer.config import load
from renewer.daemon.build import build_operation_targets, read_gauges
from renewer.daemon.clock import SystemClock
from renewer.errors import TransientError
from renewer.targets.servicebus import NamespaceOptions, ServiceBusTarget, SharedAccessKey
from renewer.targets.servicebus.credentials import CountedTokens, EntityToken

pytestmark = pytest.mark.anyio


class Provider:
    """Gives a token, or none."""

    remedy = "look"
    trouble = None

    def __init__(self) -> None:
        self.has_any = True

    async def prepare(self) -> None:
        await self.token("")

    async def token(self, entity, *, beyond=None, refused=False):
        if not self.has_any:
            raise TransientError("none", kind="unauthorized")
        return EntityToken("text", "jwt", 0, 0.0)

    async def watch(self) -> None:
        """Nothing to watch."""


async def test_a_token_that_cannot_be_had_or_is_asked_for_because_of_a_refusal_counts_as_a_failure():
    provider = Provider()
    tokens = CountedTokens(provider)
    await tokens.prepare()
    await tokens.token("orders", beyond=1.0)
    assert tokens.failures == 0
    await tokens.token("orders", refused=True)
    assert tokens.failures == 1
    provider.has_any = False
    for ask in (tokens.prepare(), tokens.token("orders")):
        with pytest.raises(TransientError):
            await ask
    assert tokens.failures == 3
    assert (tokens.remedy, tokens.trouble) == ("look", None)


async def test_namespaces_and_accounts_are_read_with_what_each_of_them_has():
    clock = SystemClock()
    options = NamespaceOptions(
        name="main", hostname="broker", host="broker", port=5672, credential=SharedAccessKey("local", "key")
    )
    namespace = ServiceBusTarget(options, clock, lambda _: None, rng=random.Random(1))
    accounts = build_operation_targets(
        load(None, environ={}, overrides={"fabric": {"main": {"token": "local"}}}), clock
    )
    read = dict(read_gauges({"servicebus.main": namespace}, accounts)())
    assert read["servicebus.main"] == {"connections": 0, "links": 0, "in_trouble": False, "token_failures": 0}
    assert read["fabric.main"] == {"token_failures": 0}
