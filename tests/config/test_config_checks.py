"""What only makes sense together."""

from __future__ import annotations

import grp
import os
import ssl
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from renewer.config.checks import MIN_ATTEMPTS, attempts_before_expiry
from renewer.core.timing import RenewalPolicy

if TYPE_CHECKING:
    from tests.config.conftest import ConfigFile

MAIN = '[servicebus.main]\nconnection_string = "$CONNECTION"\n'
CLOUD = "Endpoint=sb://h;SharedAccessKeyName=n;SharedAccessKey=k"


@pytest.mark.parametrize(
    ("word", "installed", "is_used"),
    [("auto", True, True), ("auto", False, False), ("asyncio", True, False), ("uvloop", True, True)],
)
def test_the_event_loop_is_uvloop_where_it_is_wanted_and_installed(
    config: ConfigFile, monkeypatch: pytest.MonkeyPatch, word: str, installed: bool, is_used: bool
) -> None:
    monkeypatch.setattr("renewer.config.model.find_spec", lambda _name: object() if installed else None)
    assert config.load(f'[daemon]\nevent_loop = "{word}"\n').daemon.uses_uvloop() == is_used


def test_uvloop_must_be_installed_where_it_is_asked_for(config: ConfigFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("renewer.config.model.find_spec", lambda _name: None)
    (problem,) = config.problems('[daemon]\nevent_loop = "uvloop"\n')
    assert (problem.where, problem.key, problem.value) == ("config.toml:2", "daemon.event_loop", '"uvloop"')
    assert "pip install 'renewer[uvloop]'" in problem.remedy


@pytest.mark.parametrize("listen", ["tcp:0.0.0.0:8322", "tcp:[::]:8322", "tcp:10.0.0.1:0", "tcp:example.com:8322"])
def test_the_api_needs_a_key_where_other_machines_can_reach_it(config: ConfigFile, listen: str) -> None:
    text = f'[api]\nlisten = "{listen}"\n'
    found = config.problems(text)
    assert [problem.key for problem in found] == ["api.listen"]
    assert "set key, key_file or key_env" in found[0].remedy
    assert config.problems(text + 'key = "k"\n') == []


@pytest.mark.parametrize("listen", ["unix:x", "tcp:127.0.0.1:8322", "tcp:[::1]:0", "tcp:localhost:0"])
def test_the_api_needs_none_where_only_this_machine_can_reach_it(config: ConfigFile, listen: str) -> None:
    assert config.problems(f'[api]\nlisten = "{listen}"\n') == []


@pytest.mark.parametrize("form", ["{0}", '"{0}"', '"{1}"'])
def test_the_socket_may_belong_to_a_group_by_name_or_number(config: ConfigFile, form: str) -> None:
    number = os.getegid()
    written = form.format(number, grp.getgrgid(number).gr_name)
    assert config.problems(f'[api]\nlisten = "unix:/run/x/renewer.sock"\nsocket_group = {written}\n') == []


def test_a_group_cannot_reach_a_socket_in_the_state_directory(config: ConfigFile) -> None:
    text = f'[api]\nlisten = "unix:./var/below/renewer.sock"\nsocket_group = {os.getegid()}\n'
    (problem,) = config.problems(text)
    assert (problem.key, "state_dir" in problem.remedy) == ("api.socket_group", True)
    assert config.problems(f'daemon.state_dir = "./elsewhere"\n{text}') == []


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("socket_group = 'no-such-group-here'\nlisten = 'unix:/run/x/r.sock'", "a group of this machine"),
        ("socket_group = ''", "name or the number"),
        ("socket_group = 'a b'", "name or the number"),
        ("socket_group = true", "name or the number"),
        ("socket_group = -1", "name or the number"),
        ("socket_group = 'root'\nlisten = 'tcp:127.0.0.1:0'", "no effect on a TCP port"),
    ],
)
def test_a_group_that_the_socket_cannot_have_is_told(config: ConfigFile, text: str, remedy: str) -> None:
    found = config.problems(f"[api]\n{text}\n")
    assert [problem.key for problem in found] == ["api.socket_group"]
    assert remedy in found[0].remedy


def test_a_group_that_we_may_not_give_files_to_is_told(config: ConfigFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getegid", lambda: 1000)
    monkeypatch.setattr(os, "getgroups", lambda: [1000, 1001])
    elsewhere = '[api]\nlisten = "unix:/run/x/renewer.sock"\n'
    assert config.problems(f"{elsewhere}socket_group = 1001\n") == []
    found = config.problems(f"{elsewhere}socket_group = 1002\n")
    assert [problem.key for problem in found] == ["api.socket_group"]
    assert "a member of" in found[0].remedy


@pytest.mark.parametrize("key", ["max_leases", "max_operations"])
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "1000001", "'many'"])
def test_a_limit_is_a_count(config: ConfigFile, key: str, value: str) -> None:
    assert [problem.key for problem in config.problems(f"[api]\n{key} = {value}\n")] == [f"api.{key}"]


def test_metrics_may_be_seen_from_elsewhere(config: ConfigFile) -> None:
    assert config.problems('[metrics]\nlisten = "0.0.0.0:9464"\n') == []


@pytest.mark.parametrize(
    ("metrics", "count"), [("0.0.0.0:8322", 1), ("127.0.0.1:8322", 1), ("127.0.0.1:8323", 0), ("", 0)]
)
def test_api_and_metrics_cannot_share_a_port(config: ConfigFile, metrics: str, count: int) -> None:
    text = f'[api]\nlisten = "tcp:127.0.0.1:8322"\nkey = "k"\n[metrics]\nlisten = "{metrics}"\n'
    found = config.problems(text)
    assert [problem.key for problem in found] == ["api.listen"] * count


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[api]\nkey = 'a'\nkey_env = 'B'\n", "api.key_env"),
        (MAIN + "connection_string_env = 'C'\n", "servicebus.main.connection_string_env"),
        ("[fabric.main]\ntoken = 'a'\ntoken_env = 'B'\n", "fabric.main.token_env"),
        ("[fabric.main]\ntoken = 'a'\ncredential = 'default'\n", "fabric.main.credential"),
    ],
)
def test_of_several_ways_to_give_a_secret_one_is_taken(config: ConfigFile, text: str, key: str) -> None:
    found = config.problems(text, environ={"B": "b", "C": CLOUD})
    assert [problem.key for problem in found] == [key]
    assert "keep one of them" in found[0].remedy


@pytest.mark.parametrize("text", ["", "credential = 'default'\nscope = 'x'", "token = 'a'"])
def test_an_identity_may_name_its_token_or_leave_it_to_azure(config: ConfigFile, text: str) -> None:
    assert config.problems(f"[fabric.main]\n{text}\n") == []


def test_a_scope_does_nothing_beside_a_token(config: ConfigFile) -> None:
    found = config.problems("[fabric.main]\ntoken = 'a'\nscope = 'x'\n")
    assert [problem.key for problem in found] == ["fabric.main.scope"]


@pytest.mark.parametrize("secret", ["a b", "ä", "a\\u0007"])
def test_a_bearer_secret_must_fit_into_a_header(config: ConfigFile, secret: str) -> None:
    found = config.problems(f'[fabric.main]\ntoken = "{secret}"\n[api]\nkey = "{secret}"\n')
    assert [problem.key for problem in found] == ["fabric.main.token", "api.key"]


@pytest.mark.parametrize(
    ("text", "key", "remedy"),
    [
        ("poll_floor = '2m'\npoll_ceiling = '1m'", "poll_floor", "at most poll_ceiling, which is 1m"),
        ("poll_ceiling = '500ms'", "poll_ceiling", "at least poll_floor, which is 1s"),
        ("poll_floor = '2m'\ndefault_interval = '1m'", "poll_floor", "at most default_interval, which is 1m"),
        ("default_interval = '2h'\npoll_ceiling = '1h'", "default_interval", "at most poll_ceiling, which is 1h"),
        ("not_found_grace = '2h'\ndeadline = '1h'", "not_found_grace", "at most deadline, which is 1h"),
        ("request_timeout = '2m'\ndeadline = '1m'", "request_timeout", "at most deadline, which is 1m"),
    ],
)
def test_spans_of_polling_that_were_given_must_agree(config: ConfigFile, text: str, key: str, remedy: str) -> None:
    found = config.problems(f"[fabric.main]\n{text}\n")
    assert [problem.key for problem in found] == [f"fabric.main.{key}"]
    assert remedy in found[0].remedy


@pytest.mark.parametrize("text", ["poll_floor = '1m'", "deadline = '10s'", "poll_ceiling = '10s'"])
def test_a_span_that_was_given_asks_nothing_of_those_that_were_not(config: ConfigFile, text: str) -> None:
    assert config.problems(f"[fabric.main]\n{text}\n") == []


def test_more_sessions_spread_than_a_connection_holds_make_no_sense(config: ConfigFile) -> None:
    found = config.problems(MAIN + "sessions_per_connection = 100\nspread_after = 101\n")
    assert [problem.key for problem in found] == ["servicebus.main.spread_after"]
    assert "which is 100" in found[0].remedy
    assert config.problems(MAIN + "sessions_per_connection = 100\n") == []


def test_every_mistake_of_a_connection_string_is_told(config: ConfigFile) -> None:
    found = config.problems("[servicebus.main]\nconnection_string = 'Endpoint=x;SharedAccessKeyName=n'\n")
    assert [(problem.where, problem.key, problem.value, problem.remedy) for problem in found] == [
        ("config.toml:2", "servicebus.main.connection_string", "***", "SharedAccessKey is missing"),
        ("config.toml:2", "servicebus.main.connection_string", "***", "Endpoint must be sb://HOST or sb://HOST:PORT"),
    ]


def test_a_ca_file_must_hold_certificates_and_have_a_use(config: ConfigFile) -> None:
    (config.folder / "no.pem").write_text("no certificate")
    text = f"[servicebus.main]\nconnection_string = '{CLOUD}'\n"
    assert "certificates in PEM" in config.problems(text + "ca_file = 'no.pem'\n")[0].remedy
    assert "No such file" in config.problems(text + "ca_file = 'none.pem'\n")[0].remedy
    authorities = ssl.create_default_context().get_ca_certs(binary_form=True)
    if authorities:
        (config.folder / "ca.pem").write_text(ssl.DER_cert_to_PEM_cert(authorities[0]))
        assert config.problems(text + "ca_file = 'ca.pem'\n") == []
        assert "without TLS" in config.problems(MAIN + "ca_file = 'ca.pem'\n")[0].remedy


def test_a_state_dir_is_a_directory_or_not_there_yet(config: ConfigFile) -> None:
    assert config.problems("[daemon]\nstate_dir = 'not-there'\n") == []
    assert config.problems("[daemon]\nstate_dir = '.'\n") == []
    (config.folder / "file").write_text("")
    assert "must be a directory" in config.problems("[daemon]\nstate_dir = 'file'\n")[0].remedy


def test_a_session_must_be_on_a_servicebus_that_is_there(config: ConfigFile) -> None:
    session = "[[session]]\nentity = 'a'\n"
    assert "needs a section [servicebus.NAME]" in config.problems(session)[0].remedy
    assert config.problems(MAIN + session) == []
    two = MAIN + MAIN.replace("main", "other")
    assert "must say which servicebus it is on: main, other" in config.problems(two + session)[0].remedy
    assert "did you mean other?" in config.problems(two + session + "servicebus = 'othr'\n")[0].remedy
    assert "there are main, other" in config.problems(two + session + "servicebus = 'xyzzy'\n")[0].remedy
    assert config.problems(two + session + "servicebus = 'other'\n") == []


def test_a_session_can_be_held_once(config: ConfigFile) -> None:
    text = MAIN + "[[session]]\nentity = 'orders'\nsession_id = 'x'\n"
    found = config.problems(text + "[[session]]\nservicebus = 'main'\nentity = 'Orders'\nsession_id = 'x'\n")
    assert [problem.key for problem in found] == ["session[1]"]
    assert "the same session as session[0]" in found[0].remedy
    assert config.problems(text + "[[session]]\nentity = 'orders'\nsession_id = 'X'\n") == []
    assert config.problems(text + "[[session]]\nentity = 'orders'\nsession_id = ''\n") == []


def test_the_next_available_session_may_be_asked_for_more_than_once(config: ConfigFile) -> None:
    assert config.problems(MAIN + "[[session]]\nentity = 'orders'\n" * 3) == []


def test_a_key_for_one_entity_is_used_for_that_entity(config: ConfigFile) -> None:
    text = f"[servicebus.main]\nconnection_string = '{CLOUD};EntityPath=Orders'\n[[session]]\n"
    assert config.problems(text + "entity = 'orders'\n") == []
    found = config.problems(text + "entity = 'other'\n")
    assert [problem.key for problem in found] == ["session[0].entity"]
    assert "by its EntityPath" in found[0].remedy


def test_enough_attempts_must_fit_into_a_lock(config: ConfigFile) -> None:
    late = "[renewal]\ndue_fraction = 0.8\n"
    found = config.problems(late + MAIN + "lock_duration = '2s'\n[[session]]\nentity = 'a'\nlock_duration = '3s'\n")
    assert [problem.key for problem in found] == ["servicebus.main.lock_duration", "session[0].lock_duration"]
    for word in ("due_fraction 0.8", "attempt_fraction 0.2", "of at least 4 attempts"):
        assert word in found[0].remedy
    assert config.problems(late + MAIN + "lock_duration = '30s'\n") == []
    assert config.problems(MAIN + "lock_duration = '2s'\n") == []


def test_a_short_lock_that_is_only_assumed_counts_too(config: ConfigFile) -> None:
    found = config.problems(MAIN + "assumed_lock_duration = '1s'\n")
    assert [problem.key for problem in found] == ["servicebus.main.assumed_lock_duration"]


@pytest.mark.parametrize(
    ("lock_s", "due", "attempts"),
    [(5.0, 0.5, 4), (5.0, 0.8, 4), (2.0, 0.5, 4), (1.999, 0.5, 4), (1.5, 0.5, 3), (1.0, 0.5, 2), (0.5, 0.5, 1)],
)
def test_attempts_are_counted_between_due_and_expiry(lock_s: float, due: float, attempts: int) -> None:
    assert attempts_before_expiry(RenewalPolicy(due_fraction=due), lock_s) == attempts


def test_whatever_may_be_set_leaves_enough_attempts_in_the_shortest_lock_of_the_service() -> None:
    slowest = RenewalPolicy(due_fraction=0.8, attempt_fraction=0.34, max_attempt_s=60, max_interval_s=540)
    assert attempts_before_expiry(slowest, timedelta(seconds=5).total_seconds()) == MIN_ATTEMPTS


def test_a_pool_is_of_next_available_sessions_and_there_is_one_for_an_entity(config: ConfigFile) -> None:
    pool = '[[session]]\nentity = "orders"\nsessions = 8\nidle_timeout = "30s"\n'
    assert config.problems(MAIN + pool) == []
    assert config.problems(MAIN + pool + '[[session]]\nentity = "orders"\n[[session]]\nentity = "other"\n') == []
    (named,) = config.problems(MAIN + pool + 'session_id = "a"\n')
    assert (named.key, "take session_id out, or sessions" in named.remedy) == ("session[0].sessions", True)
    (second,) = config.problems(MAIN + pool + pool.replace("orders", "Orders"))
    assert (second.key, "beside session[0]" in second.remedy) == ("session[1].sessions", True)
    (idle,) = config.problems(MAIN + '[[session]]\nentity = "orders"\nidle_timeout = "30s"\n')
    assert (idle.key, "goes with sessions" in idle.remedy) == ("session[0].idle_timeout", True)
    for wrong in ("0", "5001", "true"):
        assert [found.key for found in config.problems(MAIN + f'[[session]]\nentity = "o"\nsessions = {wrong}\n')] == [
            "session[0].sessions"
        ]


def test_more_sessions_than_connections_may_hold_are_a_mistake(config: ConfigFile) -> None:
    few = MAIN + "max_connections = 2\nsessions_per_connection = 10\nspread_after = 5\n"
    pool = '[[session]]\nentity = "orders"\nsessions = 20\n'
    assert config.problems(few + pool) == []
    (found,) = config.problems(few + pool + '[[session]]\nentity = "orders"\nsession_id = "a"\n')
    assert found.key == "servicebus.main.max_connections"
    assert "room for 20 sessions, and [[session]] asks for 21" in found.remedy
