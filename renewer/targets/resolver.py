"""Looking names up, for aiohttp: what they resolve to is judged in the moment before it is connected to."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver

from renewer.targets.addresses import read_address

if TYPE_CHECKING:
    from renewer.targets.addresses import Judge


class GuardedResolver(AbstractResolver):
    """Looks names up, and leaves out the addresses that they may not lead to. Addresses in URLs do not come here."""

    def __init__(self, inner: AbstractResolver | None = None, *, judge: Judge) -> None:
        """To be made on the event loop."""
        self._inner = inner if inner is not None else DefaultResolver()
        self._judge = judge

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses that may be connected to. Raises `OSError`, saying why, if there are none."""
        name = host.lower().removesuffix(".")
        fit: list[ResolveResult] = []
        problem = None
        for result in await self._inner.resolve(host, port, family):
            against = self._judge(name, port, read_address(result["host"]))
            if against is None:
                fit.append(result)
            problem = problem or against
        if problem is not None and not fit:
            raise OSError(None, problem)
        return fit

    async def close(self) -> None:
        """Let go of what it holds."""
        await self._inner.close()
