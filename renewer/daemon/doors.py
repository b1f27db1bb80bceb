"""The doors: the sockets by which others come in, bound before anything is restored and opened after it.

The control API, the admin listener with its page, and the gateways.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from renewer.api import serve_api
from renewer.asgi import UnixListener, listen_tcp, listen_unix, serve
from renewer.config import UnixListen, resolve_secret
from renewer.daemon.admin import build_admin
from renewer.daemon.page import NEWSWORTHY, Page
from renewer.errors import UsageError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    import anyio
    from anyio.abc import TaskGroup

    from renewer.api import Control
    from renewer.config import Settings
    from renewer.daemon.eventstream import EventStream
    from renewer.daemon.gateways import Gateways
    from renewer.observe import Metrics


class Doors:
    """All of them. `key` is the bearer key of the API; it may be changed while it is open.

    `has_api` is set once the API is loaded: whoever comes before waits for that.
    """

    def __init__(
        self,
        settings: Settings,
        control: Control,
        metrics: Metrics,
        stream: EventStream,
        gateways: Gateways,
        *,
        why_not_ready: Callable[[], str | None],
        has_api: anyio.Event,
    ) -> None:
        self.key = api_key(settings)
        self._api = settings.api
        self._metrics_at = settings.metrics
        self._control = control
        self._metrics = metrics
        self._stream = stream
        self._gateways = gateways
        self._why_not_ready = why_not_ready
        self._has_api = has_api
        self._api_listener: socket.socket | None = None
        self._admin_listener: socket.socket | None = None

    def bind(self) -> None:
        """Take every address, or none. Raises `UsageError`, which names the setting."""
        listen = self._metrics_at.listen
        try:
            with _at("api.listen"):
                self._api_listener = self._bind_api()
            with _at("metrics.listen"):
                self._admin_listener = None if listen is None else listen_tcp(listen.host, listen.port)
            with _at("gateway.listen"):
                self._gateways.bind()
        except BaseException:
            self.close()
            raise

    async def open(self, tasks: TaskGroup) -> None:
        """Let everybody in whose address was taken; returns when all are open."""
        if self._api_listener is not None:
            api = partial(serve_api, key=lambda: self.key, loaded=self._has_api)
            await tasks.start(api, self._control, self._api_listener)
        await self._gateways.open(tasks)
        if self._admin_listener is not None:
            admin = build_admin(self._metrics, not_ready=self._why_not_ready, page=self._page())
            await tasks.start(serve, admin, self._admin_listener)

    def close(self) -> None:
        """Give back what was bound."""
        api, self._api_listener = self._api_listener, None
        admin, self._admin_listener = self._admin_listener, None
        if admin is not None:
            admin.close()
        self._gateways.unbind()
        if api is not None:
            api.close()
            if isinstance(api, UnixListener):
                api.remove_file()

    def addresses(self) -> tuple[str, str]:
        """Where the API and the metrics are, for people."""
        metrics = self._metrics_at.listen
        return str(self._api.listen), "off" if metrics is None else metrics.authority

    def _bind_api(self) -> socket.socket:
        where = self._api.listen
        if isinstance(where, UnixListen):
            return listen_unix(where.path, mode=self._api.socket_mode, group=self._api.socket_group)
        return listen_tcp(where.host, where.port)

    def _page(self) -> Page | None:
        metrics = self._metrics_at
        if metrics.listen is None or not metrics.shows_page():
            return None
        latest = partial(self._stream.latest, types=NEWSWORTHY)
        return Page(self._control, latest, is_local=metrics.listen.is_loopback)


def api_key(settings: Settings) -> str | None:
    """The bearer key that callers of the API must show, if any. Raises `ConfigError` if it cannot be had."""
    source = settings.api.key_source()
    return None if source is None else resolve_secret(source, os.environ).get_secret_value()


@contextmanager
def _at(setting: str) -> Generator[None, None, None]:
    """Names the setting to change where an address cannot be listened on."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"[{setting.partition('.')[0]}] {setting.partition('.')[2]}: {error}") from error.__cause__
