"""The gateways of the daemon: each with its credential, its doorman, its door, and the target of its leases."""

from __future__ import annotations

from random import SystemRandom
from typing import TYPE_CHECKING

import anyio

from renewer.api.control import GatewayReading
from renewer.core.events import LeaseRegistered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from anyio.abc import TaskGroup

    from renewer.core.events import Event
    from renewer.core.model import LeaseSpec
    from renewer.gateway import GatewayOptions, GatewayReadings, GatewayTarget
    from renewer.ports import Clock


class Gateways:
    """All gateways. `note` is told of each lease before `post` is; `draining` says whether nothing new is taken on."""

    def __init__(
        self,
        options: Sequence[GatewayOptions],
        clock: Clock,
        *,
        note: Callable[[LeaseSpec], None],
        post: Callable[[Event], None],
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self._note = note
        self._post = post
        self._gateways = [_Gateway(each, clock, self._register, post, draining) for each in options]

    @property
    def targets(self) -> Mapping[str, GatewayTarget]:
        """The targets of their leases, by name (``gateway.main``)."""
        return {gateway.options.target_name: gateway.target for gateway in self._gateways}

    def bind(self) -> None:
        """Take the addresses. Raises `UsageError` where one cannot be had; then none is."""
        try:
            for gateway in self._gateways:
                gateway.server.bind()
        except BaseException:
            self.unbind()
            raise

    def unbind(self) -> None:
        """Give them back."""
        for gateway in self._gateways:
            gateway.server.unbind()

    async def start(self, parts: TaskGroup) -> None:
        """Run what keeps their leases."""
        for gateway in self._gateways:
            await parts.start(gateway.target.run)

    async def open(self, doors: TaskGroup) -> None:
        """Let workers in."""
        for gateway in self._gateways:
            await doors.start(gateway.server.run)

    async def stop(self, reason: str) -> None:
        """Take leave of all workers: what they hold is given back to the broker."""
        async with anyio.create_task_group() as tasks:
            for gateway in self._gateways:
                tasks.start_soon(gateway.server.stop, reason)

    def readings(self) -> Sequence[GatewayReading]:
        """For `status`."""
        return [gateway.reading() for gateway in self._gateways]

    def measurements(self) -> Iterator[GatewayReadings]:
        """For the metrics."""
        for gateway in self._gateways:
            yield gateway.server.readings()

    def token_failures(self) -> Iterator[tuple[str, int]]:
        """How often each could not have a token for the broker, by the name of its target."""
        for gateway in self._gateways:
            yield gateway.options.target_name, gateway.provider.failures

    def _register(self, spec: LeaseSpec) -> None:
        self._note(spec)
        self._post(LeaseRegistered(spec))


class _Gateway:
    def __init__(
        self,
        options: GatewayOptions,
        clock: Clock,
        register: Callable[[LeaseSpec], None],
        post: Callable[[Event], None],
        draining: Callable[[], bool],
    ) -> None:
        # Only here: where no gateway is configured none is loaded.
        from renewer.gateway import Doorman, GatewayServer, GatewayTarget
        from renewer.targets.servicebus import CountedTokens, token_provider

        self.options = options
        # Whether it will end soon is watched by the namespace's own target.
        self.provider = CountedTokens(token_provider(options.namespace, clock, audience=options.namespace.audience))
        self.target = GatewayTarget(options, clock, self.provider, register=register, post=post, rng=SystemRandom())
        doorman = Doorman(options.keys, options.token_leniency_s)
        self.server = GatewayServer(options, self.target, clock, doorman, self.provider, draining=draining)

    def reading(self) -> GatewayReading:
        now = self.server.readings()
        return GatewayReading(
            name=now.name,
            servicebus=self.options.namespace.name,
            listen=now.address,
            connections=now.connections,
            logging_in=now.strangers,
            keys=now.keys,
            refusals=now.refusals,
            upstream_failures=now.upstream_failures,
            messages=now.messages,
            buffered_bytes=now.buffered_bytes,
        )
