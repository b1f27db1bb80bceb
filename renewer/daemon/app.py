"""The daemon: everything wired together, from ready to stopped.

Starting has an order: the registry is taken first, so that a second daemon on the same state touches nothing; then what
it holds goes on, and only then is anybody let in. Stopping has one, too: no new work is taken, every lease is given
back while its connection still lives, what is known is stored, and only then do the connections close. It is bounded by
`[daemon] stop_timeout`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio
import prometheus_client
import structlog

import renewer
from renewer.api import load_api
from renewer.daemon.build import (
    accounts_of,
    build_namespaces,
    build_operation_targets,
    callback_options,
    gateway_options,
    namespaces_of,
    read_gauges,
)
from renewer.daemon.callbacks import Callbacks
from renewer.daemon.clock import SystemClock
from renewer.daemon.configured import ConfiguredSessions
from renewer.daemon.control import DaemonControl, Limits, Outlook
from renewer.daemon.doors import Doors, api_key
from renewer.daemon.eventstream import EventStream
from renewer.daemon.garbage import kept_for_good
from renewer.daemon.gateways import Gateways
from renewer.daemon.health import Health, Lag
from renewer.daemon.lanes import LaneLimits
from renewer.daemon.owners import ProcessOwners
from renewer.daemon.pools import SessionPools
from renewer.daemon.registrar import Forgetting, Registrar
from renewer.daemon.reload import Reloader, ReloadPlan, with_namespaces_named
from renewer.daemon.restoring import Restored, restore
from renewer.daemon.supervisor import Supervisor
from renewer.daemon.systemd import Notifier
from renewer.daemon.waiting import Waiting
from renewer.daemon.watchdog import Watchdog, status_line
from renewer.observe import AttemptMetrics, LogHook, Metrics, MetricsHook, set_up_logging
from renewer.registry import SqliteRegistry
from renewer.targets.http import load_aiohttp
from renewer.targets.spool import Spool

if TYPE_CHECKING:
    from anyio.abc import TaskGroup, TaskStatus

    from renewer.config import Settings
    from renewer.core.events import Event
    from renewer.core.leases import Lease
    from renewer.core.model import LeaseId, OperationId
    from renewer.core.operations import Operation
    from renewer.observe import LogSink
    from renewer.ports import Hook

_CLOSING_S = 3.0
"""What the service manager is told that a stop may take beyond `stop_timeout`."""

_FAREWELL_S = 1.0
"""How long a stop waits for callbacks that are on their way; the rest are sent by the next start."""

_log = structlog.get_logger("renewer.daemon")


class Daemon:
    """One daemon. `run` serves until `stop` is called; everything else may be looked at meanwhile."""

    def __init__(
        self,
        settings: Settings,
        *,
        read_settings: Callable[[], Settings] | None = None,
        log_sink: LogSink | None = None,
    ) -> None:
        """Build every part. `read_settings` reads the configuration again, for SIGHUP; `log_sink` is set up by it, too.

        Raises `ConfigError` or `UsageError` if a part cannot be built.
        """
        clock = SystemClock()
        settings = with_namespaces_named(settings)
        self._settings = settings
        self._clock = clock
        self._stop = anyio.Event()
        self._knows_the_past = anyio.Event()
        self._has_api = anyio.Event()
        self._not_ready: str | None = "starting"
        self._broken: Exception | None = None
        self._log_sink = log_sink
        self._notifier = Notifier(os.environ)
        self._registry = SqliteRegistry(
            settings.daemon.state_dir,
            synchronous=settings.registry.synchronous,
            inline_result_bytes=settings.registry.inline_result,
        )
        self.metrics = Metrics(prometheus_client.CollectorRegistry())
        prometheus_client.ProcessCollector(registry=self.metrics.registry)
        prometheus_client.GCCollector(registry=self.metrics.registry)
        self.attempts = AttemptMetrics(self.metrics)
        self._lag = Lag(clock, self.metrics.loop_lag.observe)
        self._namespaces = build_namespaces(settings, clock, self._post, os.environ)
        self._operation_targets = build_operation_targets(
            settings, clock, os.environ, spool=Spool(self._registry.spool_dir())
        )
        self._callbacks = Callbacks(callback_options(settings, os.environ), clock, operation=self._operation)
        self._owners = ProcessOwners(self._post)
        self._stream = EventStream(0, clock, lease=self._lease, operation=self._operation)
        self._registrar = Registrar(
            namespaces_of(settings, self._namespaces),
            accounts_of(settings, self._operation_targets),
            self._callbacks.check_url,
        )
        self._gateways = Gateways(
            gateway_options(settings, os.environ),
            clock,
            note=self._registrar.note,
            post=self._post,
            draining=self._is_draining,
        )
        waiting = Waiting()
        hooks: list[Hook] = [
            MetricsHook(self.metrics),
            LogHook(),
            self._owners,
            waiting,
            self._stream,
            Forgetting(self._registrar),
        ]
        self.supervisor = Supervisor(
            clock=clock,
            lease_targets={**self._namespaces, **self._gateways.targets},
            operation_targets=self._operation_targets,
            hooks=hooks,
            registry=self._registry,
            deliveries=self._callbacks,
            limits=LaneLimits(renew=settings.renewal.concurrency),
            observer=self.attempts,
            on_lag=self._lag.note,
        )
        self._callbacks.on_done = self.supervisor.keeper.delivered
        self._sessions = ConfiguredSessions(self.supervisor, self._registrar)
        self._pools = SessionPools(self.supervisor, self._registrar, clock, may_begin=self._takes_work)
        hooks.append(self._pools)
        self.control = DaemonControl(
            self.supervisor,
            clock,
            waiting,
            self._stream,
            self._registrar,
            limits=Limits(settings.api.max_leases, settings.api.max_operations),
            outlook=Outlook(
                started_at=clock.utc_now(),
                targets=lambda: self._health.targets(),
                loop_lag_s=self._lag.worst_s,
                registry="sqlite",
                pools=self._pools.readings,
                gateways=self._gateways.readings,
                trouble=lambda: self._health.trouble(),
            ),
            pools=self._pools,
        )
        self._reloader = Reloader(
            settings, read_settings or (lambda: settings), self._apply, notifier=self._notifier, clock=clock
        )
        self._health = Health(
            clock,
            self.supervisor,
            self._namespaces,
            self._operation_targets,
            self._reloader,
            self._callbacks,
            self._stream,
        )
        gauges = read_gauges(self._namespaces, self._operation_targets, self._gateways.token_failures)
        self.metrics.watch(self.supervisor.scheduler, gauges, clock)
        self.metrics.watch_gateways(self._gateways.measurements)
        self.metrics.watch_pools(self._pools.readings)
        self.metrics.watch_daemon(self._health.readings)
        if log_sink is not None:
            self.metrics.watch_log(log_sink)
        self._doors = Doors(
            settings,
            self.control,
            self.metrics,
            self._stream,
            self._gateways,
            why_not_ready=self._why_not_ready,
            has_api=self._has_api,
        )

    def stop(self) -> None:
        """Ask `run` to stop, in good order."""
        self._stop.set()

    async def reload(self) -> ReloadPlan | None:
        """Read the configuration again; None, and nothing changed, if it has mistakes."""
        # Before that, sessions that were held before would be taken for new ones.
        await self._knows_the_past.wait()
        return await self._reloader.reload()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until stopped.

        Raises `UsageError` if an address cannot be listened on, `RegistryError` if what was registered cannot be had.
        """
        with kept_for_good():
            opened = await self._registry.open()
        try:
            if opened.set_aside is not None:
                _log.error("registry damaged", detail=opened.set_aside)
            self._stream.begin(opened.generation)
            self._doors.bind()
            try:
                async with anyio.create_task_group() as parts:
                    await self._start(parts)
                    with kept_for_good():
                        past = restore(opened.entries, self.supervisor, self._registrar, self._callbacks.restore)
                    # As it was read it takes more memory than as it is kept.
                    del opened
                    self._go_on(past)
                    self._knows_the_past.set()
                    async with anyio.create_task_group() as open_doors:
                        open_doors.start_soon(self._watchdog().run)
                        await self._doors.open(open_doors)
                        self._become_ready()
                        task_status.started()
                        open_doors.start_soon(self._load_the_rest)
                        await self._stop.wait()
                        await self._wind_down()
                        open_doors.cancel_scope.cancel()
                    parts.cancel_scope.cancel()
                if self._broken is not None:
                    raise self._broken
            finally:
                self._doors.close()
        finally:
            with anyio.CancelScope(shield=True):
                await self._registry.close()
            self._notifier.close()
        _log.info("daemon stopped")

    async def run_until_signalled(self) -> None:
        """Serve until SIGTERM or SIGINT; a second one stops at once. SIGHUP reads the configuration again."""
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._watch_signals, tasks)
            await self.run()
            tasks.cancel_scope.cancel()

    async def _watch_signals(
        self, tasks: TaskGroup, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                _log.info("signal received", signal=signal.Signals(number).name)
                if number == signal.SIGHUP:
                    if self._not_ready is None:
                        tasks.start_soon(self.reload)
                    else:
                        _log.warning("configuration not reloaded", error=f"the daemon is {self._not_ready}")
                    continue
                if self._stop.is_set():
                    tasks.cancel_scope.cancel()
                self.stop()

    # --- starting and stopping -------------------------------------------------------------------------------------

    async def _start(self, parts: TaskGroup) -> None:
        await parts.start(self.supervisor.run)
        for namespace in self._namespaces.values():
            await parts.start(namespace.run)
        await self._gateways.start(parts)
        for target in self._operation_targets.values():
            await parts.start(target.run)
        await parts.start(self._owners.run)
        await parts.start(self._callbacks.run)
        await parts.start(self._pools.run)

    def _go_on(self, restored: Restored) -> None:
        self._sessions.apply(self._settings.session, restored.configured)
        self._pools.apply(self._settings.session, restored.configured)
        if restored.leases or restored.operations or restored.configured or restored.unreadable:
            _log.info(
                "registry restored",
                leases=restored.leases + len(restored.configured),
                operations=restored.operations,
                callbacks=restored.callbacks,
                unreadable=restored.unreadable,
            )

    def _become_ready(self) -> None:
        self._not_ready = None
        # "asyncio" or "uvloop"
        event_loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
        api, metrics = self._doors.addresses()
        _log.info("daemon ready", version=renewer.__version__, event_loop=event_loop, api=api, metrics=metrics)
        self._notifier.ready(status_line(self.control.status()))

    async def _load_the_rest(self) -> None:
        """Load what takes longer than all the rest, and what locks and polls need not wait for."""
        try:
            with kept_for_good():
                if self._operation_targets:
                    # Nobody else needs it but for callbacks, and it takes 5 MiB. Not in a thread: beside a busy event
                    # loop that took 20 s, and a request that came meanwhile had the whole loop wait.
                    load_aiohttp()
                # Only now: a poll that is due must not wait for both.
                await load_api()
        except Exception as error:
            # A broken installation. What is held by now is given back in order, and then this is raised.
            self._broken = error
            self.stop()
        else:
            self._has_api.set()

    async def _wind_down(self) -> None:
        timeout_s = self._settings.daemon.stop_timeout.total_seconds()
        self._not_ready = "stopping"
        self.control.state = "stopping"
        self._notifier.stopping("giving leases back", takes_s=timeout_s + _CLOSING_S)
        _log.info("daemon stopping")
        with anyio.move_on_after(timeout_s):
            # Whose lock it is learns that first, and its session is free before anybody else's.
            await self._gateways.stop("the gateway stops; connect again in a moment")
            await self.supervisor.park_all()
        with anyio.move_on_after(_CLOSING_S, shield=True):
            self.supervisor.keeper.no_more_polls()
            await self.supervisor.keeper.flush()
        with anyio.move_on_after(_FAREWELL_S):
            await self._callbacks.caught_up()
        self._stream.close()

    def _watchdog(self) -> Watchdog:
        return Watchdog(
            self._notifier,
            self._clock,
            status=lambda: status_line(self.control.status()),
            cannot_serve=self._health.why_it_cannot_serve,
            loop_lag_s=lambda: self._lag.last_s,
        )

    # --- while it runs ---------------------------------------------------------------------------------------------

    async def _apply(self, plan: ReloadPlan) -> None:
        """Carry out a reload: everything that can fail first."""
        settings = plan.settings
        key, options = api_key(settings), callback_options(settings, os.environ)
        self._callbacks.use(options)
        self._doors.key = key
        self._settings = settings
        self._registrar.namespaces = namespaces_of(settings, self._namespaces)
        self._registrar.accounts = accounts_of(settings, self._operation_targets)
        self.control.limits.leases = settings.api.max_leases
        self.control.limits.operations = settings.api.max_operations
        if self._log_sink is not None:
            set_up_logging(self._log_sink, level=settings.daemon.log_level, log_format=settings.daemon.log_format)
        self._sessions.apply(settings.session)
        self._pools.apply(settings.session)

    def _post(self, event: Event) -> None:
        self.supervisor.post(event)

    def _lease(self, lease_id: LeaseId) -> Lease | None:
        return self.supervisor.scheduler.lease(lease_id)

    def _operation(self, operation_id: OperationId) -> Operation | None:
        return self.supervisor.scheduler.operation(operation_id)

    def _is_draining(self) -> bool:
        return self.control.state == "draining"

    def _takes_work(self) -> bool:
        return self.control.state == "ready"

    def _why_not_ready(self) -> str | None:
        if self._not_ready is not None:
            return self._not_ready
        if self.control.state != "ready":
            return self.control.state
        return self.supervisor.keeper.trouble
