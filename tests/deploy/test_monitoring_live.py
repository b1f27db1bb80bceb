"""A real Prometheus and Alertmanager watch a real daemon at work: every panel answers, and its death is told."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import TypeVar

import httpx
import pytest
import yaml

from tests.ports import free_port

pytestmark = pytest.mark.deploy

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
T = TypeVar("T")
RENEWER = [sys.executable, "-m", "renewer"]
LIMIT_S = 60
TOOLS = {
    "promtool": "prometheus",
    "prometheus": "prometheus",
    "amtool": "prometheus-alertmanager",
    "prometheus-alertmanager": "prometheus-alertmanager",
}

WITHOUT_GATEWAY = {"Workers connected", "Refused", "Upstream failures", "Messages passed", "Waiting to be taken"}
"""Panels that are rightly empty where no gateway is configured; no other panel may ever be."""


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: deploy/install-test-tools.sh installs them")


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, arguments)), capture_output=True, text=True, timeout=LIMIT_S, **options)


def wait_for(probe: Callable[[], T], what: str, limit_s: float = LIMIT_S) -> T:
    """Ask other processes, which have no event to wait on, until the answer is something."""
    end = time.monotonic() + limit_s
    while True:
        try:
            answer = probe()
        except httpx.TransportError:
            answer = None
        if answer:
            return answer
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.2)


@contextmanager
def process(*command: object, cwd: Path) -> Iterator[tuple[subprocess.Popen[str], Queue[str | None]]]:
    """A process, and the lines of its standard error as they come."""
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, cwd=cwd) as child:
        lines: Queue[str | None] = Queue()
        Thread(target=_read, args=(child, lines), daemon=True).start()
        try:
            yield child, lines
        finally:
            child.kill()


def _read(child: subprocess.Popen[str], lines: Queue[str | None]) -> None:
    assert child.stderr is not None
    for line in child.stderr:
        lines.put(line)
    lines.put(None)


def line_with(lines: Queue[str | None], pattern: str) -> re.Match[str]:
    seen = []
    while (line := lines.get(timeout=LIMIT_S)) is not None:
        seen.append(line)
        found = re.search(pattern, line)
        if found is not None:
            return found
    raise AssertionError(f"ended without {pattern!r}:\n{''.join(seen)}")


class Webhook:
    """What Alertmanager tells, one alert after the other."""

    def __init__(self) -> None:
        self.alerts: Queue[dict[str, str]] = Queue()
        told = self.alerts

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                for alert in json.loads(self.rfile.read(int(self.headers["Content-Length"])))["alerts"]:
                    told.put({"path": self.path, "status": alert["status"], **alert["labels"]})
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]

    def wait_for(self, name: str, status: str) -> dict[str, str]:
        end = time.monotonic() + LIMIT_S
        seen = []
        while True:
            try:
                alert = self.alerts.get(timeout=max(0.0, end - time.monotonic()))
            except Empty:
                raise AssertionError(f"{name} was not told as {status}; seen: {seen}") from None
            seen.append((alert["alertname"], alert["status"]))
            if seen[-1] == (name, status):
                return alert


@pytest.fixture(scope="module")
def webhook() -> Iterator[Webhook]:
    hook = Webhook()
    thread = Thread(target=hook.server.serve_forever, daemon=True)
    thread.start()
    yield hook
    hook.server.shutdown()
    hook.server.server_close()
    thread.join()


@dataclass
class Daemon:
    """A daemon at work against an emulator, which can be killed and started again."""

    folder: Path
    metrics: str
    emulator: str
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self) -> None:
        self.processes.append(
            subprocess.Popen([*RENEWER, "run", "-c", "config.toml"], cwd=self.folder, stderr=subprocess.DEVNULL)
        )
        wait_for(lambda: httpx.get(f"http://{self.metrics}/readyz").is_success, "the daemon is ready")

    def kill(self) -> None:
        self.processes[-1].send_signal(signal.SIGKILL)
        self.processes[-1].wait(LIMIT_S)

    def stop(self) -> None:
        for child in self.processes:
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(LIMIT_S)
                finally:
                    child.kill()

    def follow(self, scenario: str) -> None:
        """Have it follow an operation that goes like this."""
        scripts = f"http://{self.emulator}/_emulator/scripts"
        httpx.post(scripts, json={"scenario": scenario, "times": 1}).raise_for_status()
        request = {"method": "POST", "url": "/workspaces/1/notebooks", "body": {"displayName": "n"}}
        transport = httpx.HTTPTransport(uds=str(self.folder / "api.sock"))
        with httpx.Client(transport=transport, base_url="http://renewer", timeout=LIMIT_S) as api:
            api.post("/v1/operations", json={"submit": request}).raise_for_status()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("daemon")
    queues = ["--queue", "orders:session", "--queue", "shipments:session"]
    listen = ["--amqp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--lock-duration", "2s"]
    with process(*RENEWER, "emulator", *listen, *queues, cwd=folder) as (_, lines):
        ready = json.loads(line_with(lines, r".*emulator ready.*")[0])
        metrics = f"127.0.0.1:{free_port()}"
        (folder / "config.toml").write_text(
            f"""
            [daemon]
            state_dir = "state"
            [api]
            listen = "unix:api.sock"
            [metrics]
            listen = "{metrics}"
            [servicebus.main]
            connection_string = "Endpoint=sb://{ready["amqp"]};SharedAccessKeyName=local;SharedAccessKey=bG9jYWw=;UseDevelopmentEmulator=true"
            [[session]]
            entity = "orders"
            session_id = "customer-1"
            [[session]]
            entity = "shipments"
            sessions = 2
            [fabric.main]
            base_url = "http://{ready["http"]}/v1"
            token = "local"
            limits = {{ platform = "6000/1m", jobs = "6000/1m", operations = "6000/1m" }}
            [[gateway]]
            listen = "127.0.0.1:{free_port()}"
            [[gateway.key]]
            name = "local"
            key = "a-key-for-workers-here"
            entities = ["*"]
            """
        )
        watched = Daemon(folder, metrics, str(ready["http"]))
        try:
            watched.start()
            yield watched
        finally:
            watched.stop()


@dataclass(frozen=True)
class Prometheus:
    address: str

    def query(self, expression: str) -> list[float]:
        """The values of the series that an expression answers with; nothing where it cannot be understood."""
        answer = httpx.get(f"http://{self.address}/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", f"{answer.get('error')}: {expression}"
        return [float(series["value"][1]) for series in answer["data"]["result"]]

    def labels(self, name: str, matching: str) -> list[str]:
        params = {"match[]": matching}
        found = httpx.get(f"http://{self.address}/api/v1/label/{name}/values", params=params).json()["data"]
        return list(found)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory, daemon: Daemon, webhook: Webhook) -> Iterator[Prometheus]:
    """As the examples configure it and Alertmanager, but in a hurry."""
    folder = tmp_path_factory.mktemp("prometheus")
    shutil.copytree(MONITORING / "rules", folder / "rules")
    for path in (folder / "rules").iterdir():
        rules = yaml.safe_load(path.read_text())
        for group in rules["groups"]:
            group["interval"] = "1s"
            for rule in group["rules"]:
                rule.pop("for", None)
        path.write_text(yaml.safe_dump(rules))
    told = yaml.safe_load((MONITORING / "alertmanager.example.yaml").read_text())
    told["route"] |= {"group_wait": "0s", "group_interval": "1s"}
    text = yaml.safe_dump(told).replace("127.0.0.1:9095", f"127.0.0.1:{webhook.port}")
    (folder / "alertmanager.yaml").write_text(text)
    manager = ["prometheus-alertmanager", "--config.file=alertmanager.yaml", "--storage.path=told"]
    own = ["--web.listen-address=127.0.0.1:0"]
    with process(*manager, *own, "--cluster.listen-address=", cwd=folder) as (_, lines):
        alertmanager = address_when_ready(lines)
        scraped = yaml.safe_load((MONITORING / "prometheus.example.yaml").read_text())
        scraped["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        text = yaml.safe_dump(scraped).replace("127.0.0.1:9464", daemon.metrics)
        (folder / "prometheus.yaml").write_text(text.replace("127.0.0.1:9093", alertmanager))
        command = ["prometheus", "--config.file=prometheus.yaml", "--storage.tsdb.path=data"]
        with process(*command, *own, cwd=folder) as (_, lines):
            yield Prometheus(address_when_ready(lines))


def address_when_ready(lines: Queue[str | None]) -> str:
    """Where Prometheus or Alertmanager listens, once it answers with more than "Service Unavailable"."""
    address = line_with(lines, r'msg="Listening on" address=(\S+)')[1]
    wait_for(lambda: httpx.get(f"http://{address}/-/ready").is_success, f"{address} is ready")
    return address


def test_promtool_and_amtool_take_every_file() -> None:
    rules, tests = sorted(MONITORING.glob("rules/*.yaml")), sorted(MONITORING.glob("tests/*.yaml"))
    for command in (
        ["promtool", "check", "rules", "--lint-fatal", *rules],
        ["promtool", "check", "config", MONITORING / "prometheus.example.yaml"],
        ["promtool", "test", "rules", *tests],
        ["amtool", "check-config", MONITORING / "alertmanager.example.yaml"],
    ):
        done = run(*command, cwd=MONITORING)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("severity", "receiver"), [("critical", "at-once"), ("warning", "today"), ("info", "quiet")])
def test_each_severity_reaches_whom_it_should(severity: str, receiver: str) -> None:
    config = MONITORING / "alertmanager.example.yaml"
    labels = ["component=renewer", f"severity={severity}", f"--verify.receivers={receiver}"]
    done = run("amtool", "config", "routes", "test", "--config.file", config, *labels)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_has_nothing_to_say_of_what_the_daemon_exports(daemon: Daemon) -> None:
    text = httpx.get(f"http://{daemon.metrics}/metrics").text
    assert "renewer_leases" in text
    done = run("promtool", "check", "metrics", input=text)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("page", ["fleet", "instance"])
def test_every_expression_of_every_panel_answers_with_series(daemon: Daemon, prometheus: Prometheus, page: str) -> None:
    document = json.loads((MONITORING / "dashboards" / f"{page}.json").read_text())
    wait_for(lambda: prometheus.query('renewer_renewals_total{outcome="success"} > 3'), "renewals are seen")
    chosen = choose(document, prometheus)
    asked = {(panel["title"], target["expr"]) for panel in document["panels"] for target in panel.get("targets", ())}
    assert {title for title, _ in asked} >= WITHOUT_GATEWAY
    has_gateway = bool(prometheus.query("renewer_gateway_connections"))
    rightly_empty = {item for item in asked if item[0] in WITHOUT_GATEWAY and not has_gateway}
    waiting = asked - rightly_empty

    def ask() -> bool:
        daemon.follow("job")
        answered = {item for item in waiting if answers(prometheus, substituted(item[1], chosen))}
        waiting.difference_update(answered)
        return not waiting

    try:
        wait_for(ask, "every expression answers", 40)
    except AssertionError:
        pytest.fail("no series for " + "\n".join(f"{title}: {substituted(expr, chosen)}" for title, expr in waiting))
    for _, expression in rightly_empty:
        assert prometheus.query(substituted(expression, chosen)) == []


def choose(document: dict[str, object], prometheus: Prometheus) -> dict[str, str]:
    """What Grafana puts in place of variables: the first choice, or all of them as a regular expression."""
    chosen = {"__rate_interval": "15s", "__range": "1m"}
    for variable in document["templating"]["list"]:
        if variable["type"] != "query":
            continue
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert found is not None
        values = prometheus.labels(found[2], substituted(found[1], chosen))
        assert values, f"nothing to choose for {variable['name']}"
        every = "|".join(re.escape(value) for value in values)
        chosen[variable["name"]] = f"({every})" if variable["includeAll"] else values[0]
    return chosen


def substituted(expression: str, chosen: dict[str, str]) -> str:
    return re.sub(r"\$(\w+)", lambda found: chosen[found[1]].replace("\\", "\\\\"), expression)


def answers(prometheus: Prometheus, expression: str) -> bool:
    values = prometheus.query(expression)
    return any(value == value for value in values)  # NaN is not equal to itself


def test_an_operation_that_failed_and_a_daemon_that_is_killed_reach_the_webhook_and_its_return_does_too(
    daemon: Daemon, prometheus: Prometheus, webhook: Webhook
) -> None:
    wait_for(lambda: prometheus.query('up{job="renewer"} == 1'), "the daemon is scraped")
    wait_for(lambda: prometheus.query("renewer_leases"), "its metrics are seen")
    assert prometheus.query('ALERTS{alertname="RenewerDown"}') == []
    daemon.follow("failed")
    told = webhook.wait_for("OperationFailed", "firing")
    assert (told["path"], told["state"], told["severity"]) == ("/today", "failed", "warning")
    daemon.kill()
    told = webhook.wait_for("RenewerDown", "firing")
    assert (told["path"], told["instance"], told["component"]) == ("/at-once", daemon.metrics, "renewer")
    daemon.start()
    webhook.wait_for("RenewerDown", "resolved")
