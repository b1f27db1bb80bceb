"""The daemon: everything wired together, from ready to stopped.

Stopping has an order: first no new work is taken, then every lease is given back while its connection still lives,
and only then do the connections close. It is bounded by `[daemon] stop_timeout`.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import anyio
import prometheus_client
import structlog

import renewer
from renewer.api import HoldRequest, build_api
from renewer.asgi import listen_tcp, listen_unix, serve
from renewer.config import UnixListen, resolve_secret
from renewer.core.events import LinkLost
from renewer.daemon.admin import build_admin
from renewer.daemon.attempts import LaneLimits
from renewer.daemon.build import build_accounts, build_namespaces, read_gauges
from renewer.daemon.clock import SystemClock
from renewer.daemon.control import DaemonControl
from renewer.daemon.supervisor import Supervisor
from renewer.daemon.waiting import Waiting
from renewer.errors import UsageError
from renewer.observe import AttemptMetrics, LogHook, Metrics, MetricsHook

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from anyio.abc import TaskStatus

    from renewer.config import Settings

_log = structlog.get_logger("renewer.daemon")


class Daemon:
    """One daemon. `run` serves until `stop` is called; everything else may be looked at meanwhile."""

    def __init__(self, settings: Settings) -> None:
        """Build every part. Raises `ConfigError` or `UsageError` if one cannot be built."""
        clock = SystemClock()
        self._settings = settings
        self._stop = anyio.Event()
        self._not_ready: str | None = "starting"
        self.metrics = Metrics(prometheus_client.CollectorRegistry())
        prometheus_client.ProcessCollector(registry=self.metrics.registry)
        prometheus_client.GCCollector(registry=self.metrics.registry)
        self.attempts = AttemptMetrics(self.metrics)
        self._namespaces = build_namespaces(settings, clock, self._link_lost, os.environ)
        self._accounts = build_accounts(settings, clock)
        waiting = Waiting()
        self.supervisor = Supervisor(
            clock=clock,
            lease_targets=self._namespaces,
            operation_targets={name: account.target for name, account in self._accounts.items()},
            hooks=[MetricsHook(self.metrics), LogHook(), waiting],
            limits=LaneLimits(
                renew=settings.renewal.concurrency,
                by_account={f"fabric.{name}": section.concurrency for name, section in settings.fabric.items()},
            ),
            observer=self.attempts,
            on_lag=self.metrics.loop_lag.observe,
        )
        self.metrics.watch(self.supervisor.scheduler, read_gauges(self._namespaces))
        self.control = DaemonControl(
            self.supervisor,
            clock,
            waiting,
            namespaces={name: settings.renewal_policy(name) for name in settings.servicebus},
            accounts=self._accounts,
        )

    def stop(self) -> None:
        """Ask `run` to stop, in good order."""
        self._stop.set()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until stopped. Raises `UsageError` if an address cannot be listened on."""
        api_listener, admin_listener = self._listen()
        try:
            async with anyio.create_task_group() as parts:
                await parts.start(self.supervisor.run)
                for namespace in self._namespaces.values():
                    await parts.start(namespace.run)
                for account in self._accounts.values():
                    await parts.start(account.target.run)
                async with anyio.create_task_group() as doors:
                    await self._open(doors, api_listener, admin_listener)
                    self._hold_configured()
                    self._not_ready = None
                    _log.info("daemon ready", version=renewer.__version__, **self._addresses())
                    task_status.started()
                    await self._stop.wait()
                    self._not_ready = "stopping"
                    _log.info("daemon stopping")
                    with anyio.move_on_after(self._settings.daemon.stop_timeout.total_seconds()):
                        await self.supervisor.release_all()
                    doors.cancel_scope.cancel()
                parts.cancel_scope.cancel()
        finally:
            self._close(api_listener, admin_listener)
        _log.info("daemon stopped")

    async def run_until_signalled(self) -> None:
        """Serve until SIGTERM or SIGINT; a second one stops at once."""
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._watch_signals, tasks.cancel_scope)
            await self.run()
            tasks.cancel_scope.cancel()

    async def _watch_signals(
        self, scope: anyio.CancelScope, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for number in signals:
                _log.info("signal received", signal=signal.Signals(number).name)
                if self._stop.is_set():
                    scope.cancel()
                self.stop()

    def _hold_configured(self) -> None:
        for section in self._settings.session:
            lock_duration = section.lock_duration
            max_duration = section.max_duration
            self.control.hold(
                HoldRequest(
                    servicebus=section.servicebus,
                    entity=section.entity,
                    session_id=section.session_id,
                    lock_duration_s=None if lock_duration is None else lock_duration.total_seconds(),
                    reacquire=section.reacquire,
                    max_duration_s=None if max_duration is None else max_duration.total_seconds(),
                    labels=section.labels,
                )
            )

    def _link_lost(self, event: LinkLost) -> None:
        self.supervisor.post(event)

    def _listen(self) -> tuple[socket.socket, socket.socket | None]:
        self._make_state_dir(self._settings.daemon.state_dir)
        metrics = self._settings.metrics.listen
        admin = None if metrics is None else listen_tcp(metrics.host, metrics.port)
        try:
            where = self._settings.api.listen
            if isinstance(where, UnixListen):
                return listen_unix(where.path, mode=self._settings.api.socket_mode), admin
            return listen_tcp(where.host, where.port), admin
        except BaseException:
            if admin is not None:
                admin.close()
            raise

    async def _open(
        self, doors: anyio.abc.TaskGroup, api_listener: socket.socket, admin_listener: socket.socket | None
    ) -> None:
        source = self._settings.api.key_source()
        key = None if source is None else resolve_secret(source, os.environ).get_secret_value()
        await doors.start(serve, build_api(self.control, key=key), api_listener)
        if admin_listener is not None:
            await doors.start(serve, build_admin(self.metrics, not_ready=lambda: self._not_ready), admin_listener)

    def _addresses(self) -> dict[str, str]:
        metrics = self._settings.metrics.listen
        return {"api": str(self._settings.api.listen), "metrics": "off" if metrics is None else metrics.authority}

    def _close(self, api_listener: socket.socket, admin_listener: socket.socket | None) -> None:
        api_listener.close()
        if admin_listener is not None:
            admin_listener.close()
        where = self._settings.api.listen
        if isinstance(where, UnixListen):
            where.path.unlink(missing_ok=True)

    @staticmethod
    def _make_state_dir(path: Path) -> None:
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"[daemon] state_dir = {path}: cannot be made: {error.strerror}") from error
