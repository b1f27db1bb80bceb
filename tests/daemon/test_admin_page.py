"""The page at `/` of the admin listener: who may have it, what it allows the browser, and how often it tells."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from itertools import pairwise

import anyio
import httpx
import prometheus_client
import pytest

from renewer.config import load
from renewer.daemon.admin import build_admin
from renewer.daemon.page import Page
from renewer.daemon.page.feed import MOST_READERS, PERIOD_S, Feed
from renewer.observe import Metrics
from tests.daemon.page_rig import Watched, busy

pytestmark = pytest.mark.anyio

LOOPBACK = "127.0.0.1:9464"


def admin(desk: Watched | None = None, *, is_local: bool = True, has_page: bool = True):
    desk = desk if desk is not None else busy()
    page = Page(desk, desk.latest, is_local=is_local) if has_page else None
    return build_admin(Metrics(prometheus_client.CollectorRegistry()), not_ready=lambda: None, page=page)


async def ask(app, path: str = "/", method: str = "GET", **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(app=app)
    named = {name.replace("_", "-"): value for name, value in {"host": LOOPBACK, **headers}.items()}
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        return await client.request(method, path, headers=named)


class Reader:
    """Somebody who reads the stream, over ASGI itself."""

    def __init__(self) -> None:
        self.status = 0
        self._send, self._frames = anyio.create_memory_object_stream[bytes](1_000)

    async def run(self, app, **headers: str) -> None:
        scope = {
            "type": "http", "method": "GET", "path": "/snapshots", "query_string": b"", "root_path": "",
            "headers": [(b"host", LOOPBACK.encode()), *((n.encode(), v.encode()) for n, v in headers.items())],
        }  # fmt: skip
        async with self._send, self._frames:
            await app(scope, anyio.sleep_forever, self._take)

    async def _take(self, message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            await self._send.send(message.get("body", b""))

    async def next(self) -> dict:
        while True:
            body = await self._frames.receive()
            if body.startswith(b"event: snapshot\n"):
                return json.loads(body.partition(b"data: ")[2])


@asynccontextmanager
async def reading(app, count: int = 1) -> AsyncIterator[list[Reader]]:
    readers = [Reader() for _ in range(count)]
    async with anyio.create_task_group() as tasks:
        for reader in readers:
            tasks.start_soon(reader.run, app)
        yield readers
        tasks.cancel_scope.cancel()


# --- the document --------------------------------------------------------------------------------------------


async def test_the_page_may_use_nothing_but_its_own_style_and_script() -> None:
    answer = await ask(admin())
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert (policy["connect-src"], policy["img-src"]) == ("'self'", "data:")
    assert policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert policy[directive] == f"'sha256-{digest}'"
    assert "unsafe" not in answer.headers["content-security-policy"]


async def test_the_page_names_nothing_from_elsewhere_and_makes_no_markup_of_texts() -> None:
    text = (await ask(admin())).text
    hosts = set(re.findall(r"\w+://[^'\"\s/]+", text))
    assert hosts == {"http://www.w3.org"}  # the name of SVG, which is never asked
    assert re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|\sstyle=|\son[a-z]+=", text) == []
    assert re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"(?!data:)", text) == []


@pytest.mark.parametrize("path", ["/", "/snapshots"])
async def test_nobody_may_frame_keep_or_sniff_what_the_page_tells(path: str) -> None:
    headers = (await ask(admin(), path, "HEAD")).headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("path", ["/", "/snapshots"])
async def test_head_answers_without_a_body(path: str) -> None:
    answer = await ask(admin(), path, "HEAD")
    assert answer.status_code == 200
    assert path == "/" or answer.headers["content-type"] == "text/event-stream; charset=utf-8"


@pytest.mark.parametrize("path", ["/", "/snapshots"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_other_methods_are_not_allowed(path: str, method: str) -> None:
    answer = await ask(admin(), path, method)
    assert answer.status_code == 405
    assert {name.strip() for name in answer.headers["allow"].split(",")} == {"GET", "HEAD"}


# --- who may read it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/snapshots"])
async def test_a_name_that_points_to_this_machine_is_not_let_in(path: str) -> None:
    answer = await ask(admin(), path, host="attacker.example:9464")
    assert answer.status_code == 403
    assert "loopback" in answer.text


@pytest.mark.parametrize("host", ["localhost:9464", "127.0.0.1", "[::1]:9464"])
async def test_every_name_of_this_machine_is_let_in(host: str) -> None:
    assert (await ask(admin(), host=host)).status_code == 200


async def test_elsewhere_every_name_is_let_in() -> None:
    assert (await ask(admin(is_local=False), host="renewer.example")).status_code == 200


@pytest.mark.parametrize("is_local", [True, False])
@pytest.mark.parametrize(
    "headers", [{"sec_fetch_site": "cross-site"}, {"sec_fetch_site": "same-site"}, {"origin": "http://x"}]
)
async def test_other_web_pages_may_not_read_the_stream(headers: dict[str, str], is_local: bool) -> None:
    assert (await ask(admin(is_local=is_local), "/snapshots", **headers)).status_code == 403


async def test_a_link_to_the_page_may_stand_anywhere() -> None:
    assert (await ask(admin(), sec_fetch_site="cross-site")).status_code == 200


async def test_without_a_page_the_answer_says_how_to_get_one() -> None:
    answer = await ask(admin(has_page=False))
    assert answer.status_code == 404
    assert "page = true" in answer.text
    assert (await ask(admin(has_page=False), "/snapshots")).status_code == 404


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({}, True),
        ({"listen": "[::1]:9464"}, True),
        ({"listen": "0.0.0.0:9464"}, False),
        ({"listen": "renewer.example:9464"}, False),
        ({"listen": "0.0.0.0:9464", "page": True}, True),
        ({"listen": "127.0.0.1:9464", "page": False}, False),
        ({"listen": "off", "page": True}, False),
    ],
)
def test_there_is_a_page_for_this_machine_alone_unless_it_is_set(metrics: dict[str, object], expected: bool) -> None:
    settings = load(None, environ={}, overrides={"metrics": metrics})
    assert settings.metrics.shows_page() is expected


# --- the stream ----------------------------------------------------------------------------------------------


async def test_a_reader_is_told_at_once_and_then_every_second() -> None:
    began_at = anyio.current_time()
    async with reading(admin()) as (reader,):
        told_at = []
        for _ in range(3):
            assert (await reader.next())["version"] == "0.0"
            told_at.append(anyio.current_time() - began_at)
    assert told_at == pytest.approx([0.0, PERIOD_S, 2 * PERIOD_S])


async def test_what_is_told_is_the_present() -> None:
    desk = busy()
    async with reading(admin(desk)) as (reader,):
        assert (await reader.next())["state"] == "ready"
        desk.state = "draining"
        assert (await reader.next())["state"] == "draining"


async def test_many_readers_cost_one_snapshot_a_second() -> None:
    desk = busy()
    async with reading(admin(desk), MOST_READERS) as readers:
        for _ in range(5):
            for reader in readers:
                await reader.next()
    assert desk.taken == 5


async def test_without_readers_nothing_is_made() -> None:
    desk = busy()
    app = admin(desk)
    async with reading(app) as (reader,):
        await reader.next()
    await anyio.sleep(60)
    assert desk.taken == 1
    desk.state = "draining"
    async with reading(app) as (reader,):
        assert (await reader.next())["state"] == "draining"


async def test_one_reader_too_many_is_told_to_come_back() -> None:
    app = admin()
    async with reading(app, MOST_READERS) as readers:
        for reader in readers:
            await reader.next()
        refused = await ask(app, "/snapshots")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    async with reading(app) as (reader,):
        await reader.next()


async def test_a_reader_that_leaves_while_it_makes_a_snapshot_leaves_others_theirs() -> None:
    made = 0

    async def take() -> bytes:
        nonlocal made
        await anyio.sleep(0.01)
        made += 1
        return b"{}"

    feed = Feed(take)

    async def read_one(done: anyio.Event) -> None:
        async with feed.read() as snapshots:
            async for _ in snapshots:
                done.set()

    first, second = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as staying:
        async with anyio.create_task_group() as leaving:
            leaving.start_soon(read_one, first)
            await anyio.sleep(0.005)
            staying.start_soon(read_one, second)
            leaving.cancel_scope.cancel()
        await second.wait()
        staying.cancel_scope.cancel()
    assert not first.is_set()
    assert made == 1


async def test_what_takes_long_to_make_is_made_less_often() -> None:
    begun_at: list[float] = []

    async def take() -> bytes:
        begun_at.append(anyio.current_time())
        await anyio.sleep(0.2)
        return b"{}"

    async with Feed(take).read() as snapshots:
        for _ in range(3):
            await anext(snapshots)
    assert [later - earlier for earlier, later in pairwise(begun_at)] == pytest.approx([4, 4])


# --- what it looks like --------------------------------------------------------------------------------------


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_colour_of_text_can_be_read(scheme: str) -> None:
    """WCAG 2.2, 1.4.3: a contrast of at least 4.5."""
    style = resources.files("renewer.daemon.page").joinpath("page.css").read_text(encoding="utf-8")
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", light if scheme == "light" else dark.partition("* {")[0]))
    for ground in ("ground", "panel"):
        behind = _luminance(colours[ground])
        for name in ("text", "quiet", "good", "warn", "bad", "mark"):
            front = _luminance(colours[name])
            contrast = (max(front, behind) + 0.05) / (min(front, behind) + 0.05)
            assert contrast >= 4.5, (name, ground, contrast)
