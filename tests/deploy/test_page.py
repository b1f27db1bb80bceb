"""The page at `/` of the admin listener, in a headless Chromium: what a person sees, and what the browser says."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Timer

import prometheus_client
import pytest
from anyio.from_thread import start_blocking_portal

from renewer.asgi import listen_tcp, serve
from renewer.daemon.admin import build_admin
from renewer.daemon.page import Page
from renewer.daemon.page.feed import MOST_READERS
from renewer.daemon.page.snapshot import MOST_ROWS
from renewer.observe import Metrics
from tests.daemon.page_rig import SECRETS, Watched, busy
from tests.deploy.browser import Tab, browser
from tests.deploy.tools import tool
from tests.ports import free_port

pytestmark = pytest.mark.deploy

LINK = "document.getElementById('link').textContent"
LIVE = f"{LINK}.startsWith('Live')"
STALE = f"{LINK}.startsWith('Stale')"
PHONE, DESK = (390, 844), (1400, 1000)
PATIENCE_S = 60.0
HOSTILE = "<script>document.title='taken'</script>\u202e\u200f" + "x" * 80


@pytest.fixture
def tab() -> Iterator[Tab]:
    with browser(tool("chromium")) as opened:
        yield opened


@contextmanager
def served(desk: Watched) -> Iterator[str]:
    """The page over what stands on the desk, and its URL."""
    metrics = Metrics(prometheus_client.CollectorRegistry())
    app = build_admin(metrics, not_ready=lambda: None, page=Page(desk, desk.latest, is_local=True))
    with listen_tcp("127.0.0.1", 0) as listener, start_blocking_portal() as portal:
        serving = portal.start_task_soon(serve, app, listener)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            serving.cancel()


def text_of(tab: Tab) -> str:
    return str(tab.ask("document.body.innerText"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", [PHONE, DESK])
def test_everything_fits_onto_the_screen(tab: Tab, screen: tuple[int, int], scheme: str, tmp_path: Path) -> None:
    with served(busy()) as url:
        tab.look(*screen, scheme)
        tab.open(url)
        tab.wait_until(LIVE)
        assert tab.ask("document.documentElement.scrollWidth") == screen[0]
        # Nothing is cut: each cell is as wide as what is in it.
        cut = "[...document.querySelectorAll('th, td')].filter((c) => c.scrollWidth > c.clientWidth + 1).length"
        assert tab.ask(cut) == 0
        ground = tab.ask("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(14, 18, 23)")
        picture = tab.picture()
    assert picture.startswith(b"\x89PNG")
    folder = Path(os.environ.get("RENEWER_PICTURES") or tmp_path)
    (folder / f"page-{screen[0]}-{scheme}.png").write_bytes(picture)
    assert tab.complaints == []
    assert set(tab.requested) == {url, f"{url}snapshots"}


def test_what_is_held_followed_and_lost_can_be_read(tab: Tab) -> None:
    with served(busy()) as url:
        tab.open(url)
        tab.wait_until(LIVE)
        text = text_of(tab)
    for words in (
        "servicebus.east: no connection",
        "7, nearest to expiry first",
        "▲ at risk",
        "customer-42",
        "detached",
        "via=gateway",
        "(message 90071)",
        "bestellung-ä-日本語-שלום",
        "quota",
        "InProgress, 35 %",
        "ItemHasProtectedLabel",
        "It may still be running.",
        "3 of 8",
    ):
        assert words in text, words
    assert [secret for secret in SECRETS if secret in tab.ask("document.documentElement.outerHTML")] == []


def test_who_does_not_see_the_page_can_read_it_too(tab: Tab) -> None:
    with served(busy()) as url:
        tab.open(url)
        tab.wait_until(LIVE)
        assert tab.ask("[...document.querySelectorAll('thead th')].every((cell) => cell.scope === 'col')")
        assert tab.ask("[...document.querySelectorAll('tbody tr')].every((row) => row.querySelector('th[scope=row]'))")
        named = "document.getElementById(table.getAttribute('aria-labelledby')).textContent !== ''"
        assert tab.ask(f"[...document.querySelectorAll('table')].every((table) => {named})")
        # What changes every second is not read out every second.
        assert tab.ask("[...document.querySelectorAll('[aria-live]')].map((it) => it.id)") == ["link", "told"]
        roles = {node["role"]["value"] for node in tab.call("Accessibility.getFullAXTree")["nodes"] if "role" in node}
        assert {"table", "columnheader", "rowheader", "status", "heading", "button", "banner", "main"} <= roles


def test_the_page_can_be_made_to_stand_still(tab: Tab) -> None:
    desk = busy()
    with served(desk) as url:
        tab.open(url)
        tab.wait_until(LIVE)
        tab.ask("document.getElementById('pause').click()")
        assert "Paused" in tab.ask(LINK)
        assert tab.ask("document.getElementById('pause').getAttribute('aria-pressed')") == "true"
        desk.trouble = ["something new"]
        tab.ask("document.getElementById('pause').click()")
        tab.wait_until("document.body.innerText.includes('something new')")


def test_of_twenty_thousand_leases_a_screenful_is_shown(tab: Tab) -> None:
    desk = Watched()
    for number in range(20_000):
        desk.hold(f"s{number}", 10.0 + number / 1_000)
    with served(desk) as url:
        tab.open(url)
        tab.wait_until(LIVE)
        assert f"{MOST_ROWS} of 20,000, nearest to expiry first" in text_of(tab)
        assert tab.ask("document.querySelectorAll('tbody tr').length") == MOST_ROWS


def test_a_new_loss_is_said_aloud(tab: Tab) -> None:
    desk = busy()
    with served(desk) as url:
        tab.open(url)
        tab.wait_until(LIVE)
        assert tab.ask("document.title") == "1 at risk \N{EN DASH} renewer"
        desk.all_leases[5].losses += 1
        tab.wait_until("document.getElementById('told').textContent === 'A lease was lost. Losses: 5.'")


def test_one_page_too_many_says_so_and_comes_in_once_there_is_room(tab: Tab) -> None:
    with served(busy()) as url, ExitStack() as others:
        port = int(url.rsplit(":", 1)[1].strip("/"))
        for _ in range(MOST_READERS):
            other = others.enter_context(socket.create_connection(("127.0.0.1", port)))
            other.sendall(f"GET /snapshots HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            assert other.recv(12) == b"HTTP/1.1 200"
        tab.open(url)
        tab.wait_until(f"{LINK}.startsWith('The daemon does not answer')")
        others.close()
        tab.wait_until(LIVE)


class Process:
    """One command of renewer, until it is ended."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "renewer", *arguments]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def told(self, phrase: str) -> dict[str, object]:
        """The fields of the line of its log with this phrase."""
        assert self._process.stderr is not None
        impatience = Timer(PATIENCE_S, self._process.kill)
        impatience.start()
        try:
            for line in self._process.stderr:
                if f'"{phrase}"' in line:
                    return dict(json.loads(line))
        finally:
            impatience.cancel()
        raise AssertionError(f"ended without {phrase!r}")

    def kill(self) -> None:
        """End it without a word."""
        with self._process:
            self._process.kill()


@pytest.fixture
def emulator() -> Iterator[str]:
    process = Process("emulator", "--amqp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--queue", "orders:session")
    try:
        yield str(process.told("emulator ready")["amqp"])
    finally:
        process.kill()


def test_the_page_of_a_daemon_that_is_killed_and_started_anew(tab: Tab, emulator: str, tmp_path: Path) -> None:
    config, port = tmp_path / "config.toml", free_port()
    key = "SharedAccessKeyName=local;SharedAccessKey=bG9jYWw="
    config.write_text(
        f"""
        daemon = {{ state_dir = "{tmp_path}/state", log_format = "json" }}
        api.listen = "unix:{tmp_path}/renewer.sock"
        metrics.listen = "127.0.0.1:{port}"
        servicebus.main.connection_string = "Endpoint=sb://{emulator};{key};UseDevelopmentEmulator=true"
        session = [
            {{ entity = "orders", session_id = "customer-42" }},
            {{ entity = "orders", session_id = {json.dumps(HOSTILE)} }},
        ]
        """,
        encoding="utf-8",
    )
    daemon = Process("run", "--config", str(config))
    try:
        daemon.told("daemon ready")
        tab.look(*PHONE)
        tab.open(f"http://127.0.0.1:{port}/")
        tab.wait_until("document.body.innerText.includes('2, nearest to expiry first')")
        text = text_of(tab)
        assert "customer-42" in text
        assert "<script>document.title='taken'</script>\\u202e\\u200fxxx" in text
        assert tab.ask("document.title") == "renewer"
        daemon.kill()
        tab.wait_until(STALE)
        assert "customer-42" in text_of(tab)
        daemon = Process("run", "--config", str(config))
        daemon.told("daemon ready")
        tab.wait_until(f"{LINK}.startsWith('Live. The daemon was started anew')")
        # Sessions belong to the link, so the crash lost them; the page says so.
        tab.wait_until("document.body.innerText.includes('connection lost')")
        tab.wait_until("document.body.innerText.includes('2, nearest to expiry first')")
    finally:
        daemon.kill()
    expected = re.compile("ERR_(CONNECTION_REFUSED|CONNECTION_RESET|INCOMPLETE_CHUNKED_ENCODING)")
    assert [text for text in tab.complaints if not expected.search(text)] == []
