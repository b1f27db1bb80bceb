"""A headless Chromium, told what to do over the DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from websockets.sync.client import ClientConnection, connect

PATIENCE_S = 30.0
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--force-color-profile=srgb", "--remote-debugging-port=0",
)  # fmt: skip


class Tab:
    """One page of the browser. `complaints` is what the browser had to say about it: errors, and what CSP refused."""

    def __init__(self, socket: ClientConnection) -> None:
        self.complaints: list[str] = []
        self.requested: list[str] = []
        self._socket = socket
        self._session: str | None = None
        self._last = 0
        self._loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """Have something done, and wait for the answer."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        self._socket.send(json.dumps(message | ({"sessionId": self._session} if self._session else {})))
        while True:
            answer = json.loads(self._socket.recv(timeout=PATIENCE_S))
            if answer.get("id") == self._last:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self._note(answer)

    def look(self, width: int, height: int, scheme: str = "light") -> None:
        """How large the screen is, and which colours its user likes."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, url: str) -> None:
        """Go there, and wait until it is there."""
        self._loaded = False
        self.call("Page.navigate", url=url)
        while not self._loaded:
            self._note(json.loads(self._socket.recv(timeout=PATIENCE_S)))

    def ask(self, expression: str) -> Any:
        """What the page answers to a piece of JavaScript; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_until(self, condition: str) -> None:
        """Return once the condition, in JavaScript, holds; it is looked at whenever the document changes."""
        self.ask(
            "new Promise((done) => {"
            f"const look = () => {{ if ({condition}) {{ watch.disconnect(); done(); }} }};"
            "const watch = new MutationObserver(look);"
            "watch.observe(document, {subtree: true, childList: true, characterData: true, attributes: true});"
            "look(); })"
        )

    def picture(self) -> bytes:
        """The whole page as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(params["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.complaints.append(params["exceptionDetails"]["text"])
            case "Runtime.consoleAPICalled":
                self.complaints.append(str(params["args"]))
            case "Page.loadEventFired":
                self._loaded = True
            case "Network.requestWillBeSent":
                self.requested.append(params["request"]["url"])
            case _:
                pass


@contextmanager
def browser(chromium: str) -> Iterator[Tab]:
    """A browser with one tab; it ends at the end of the block."""
    with (
        tempfile.TemporaryDirectory(prefix="rn-browser-", ignore_cleanup_errors=True) as folder,
        subprocess.Popen(
            [chromium, *_FLAGS, f"--user-data-dir={folder}"],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"TMPDIR": folder},
            start_new_session=True,
        ) as process,
    ):
        try:
            assert process.stderr is not None
            found = next(
                filter(None, (re.search(r"DevTools listening on (ws://\S+)", line) for line in process.stderr))
            )
            with connect(found[1], max_size=None, open_timeout=PATIENCE_S) as socket:
                yield Tab(socket)
        finally:
            # All of its processes, or one of them may still write into the folder while it is removed.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
