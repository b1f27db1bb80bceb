"""Where settings come from, and who wins."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from renewer.config import Settings, TcpListen, UnixListen, load
from renewer.errors import ConfigError

if TYPE_CHECKING:
    from tests.config.conftest import ConfigFile


def test_without_any_source_everything_is_at_its_default() -> None:
    assert load(None, environ={}, overrides={}) == Settings()


def test_later_sources_win_over_earlier_ones(config: ConfigFile) -> None:
    text = '[daemon]\nlog_level = "debug"\nlog_format = "json"\nstop_timeout = "1s"\n'
    environ = {"RENEWER_DAEMON__LOG_FORMAT": "console", "RENEWER_DAEMON__STOP_TIMEOUT": "2s"}
    daemon = config.load(text, environ=environ, overrides={"daemon.stop_timeout": "3s"}).daemon
    assert (daemon.log_level, daemon.log_format, daemon.stop_timeout) == ("debug", "console", timedelta(seconds=3))
    assert daemon.state_dir == Path("var")


def test_every_kind_of_value_can_come_from_the_environment(config: ConfigFile) -> None:
    environ = {
        "RENEWER_API__LISTEN": "tcp:127.0.0.1:8322",
        "RENEWER_API__KEY": "k-123",
        "RENEWER_API__SOCKET_MODE": "0600",
        "RENEWER_METRICS__LISTEN": "off",
        "RENEWER_RENEWAL__DUE_FRACTION": "0.4",
        "RENEWER_RENEWAL__CONCURRENCY": "7",
        "RENEWER_RENEWAL__REACQUIRE": "false",
        "RENEWER_RENEWAL__MAX_DURATION": "4h",
        "RENEWER_SERVICEBUS__MAIN__CONNECTION_STRING": "Endpoint=sb://h;SharedAccessKeyName=n;SharedAccessKey=k",
        "RENEWER_FABRIC__MAIN__MAX_RESULT": "1MiB",
        "RENEWER_SESSION": '[{"entity": "orders", "session_id": "", "labels": {"team": "a"}}]',
    }
    settings = config.load("", environ=environ)
    assert settings.api.listen == TcpListen("127.0.0.1", 8322)
    assert settings.api.key is not None
    assert settings.api.key.get_secret_value() == "k-123"
    assert settings.api.socket_mode == 0o600
    assert settings.metrics.listen is None
    assert (settings.renewal.due_fraction, settings.renewal.concurrency) == (0.4, 7)
    assert settings.renewal.reacquire is False
    assert settings.renewal.max_duration == timedelta(hours=4)
    assert settings.servicebus["main"].connection_string is not None
    assert settings.fabric["main"].max_result == 1024**2
    assert settings.session[0].session_id == ""
    assert settings.session[0].labels == {"team": "a"}


def test_a_variable_meets_the_section_of_the_file_whatever_its_case_and_dashes(config: ConfigFile) -> None:
    text = '[servicebus.My-Bus]\nconnection_string = "$CONNECTION"\n'
    settings = config.load(text, environ={"RENEWER_SERVICEBUS__MY_BUS__LINKS_PER_SESSION": "9"})
    assert {name: bus.links_per_session for name, bus in settings.servicebus.items()} == {"My-Bus": 9}


def test_items_of_an_array_are_set_by_their_number(config: ConfigFile) -> None:
    text = (
        '[servicebus.main]\nconnection_string = "$CONNECTION"\n[[session]]\nentity = "a"\n[[session]]\nentity = "b"\n'
    )
    environ = {"RENEWER_SESSION__0__ENTITY": "from-environment"}
    settings = config.load(text, environ=environ, overrides={"session[1].entity": "from-flag"})
    assert [session.entity for session in settings.session] == ["from-environment", "from-flag"]


def test_the_environment_is_the_one_that_was_handed_over(config: ConfigFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENEWER_DAEMON__LOG_LEVEL", "debug")
    assert config.load("").daemon.log_level == "info"
    assert load(None, environ=os.environ, overrides={}).daemon.log_level == "debug"


def test_other_peoples_variables_are_left_alone(config: ConfigFile) -> None:
    environ = {
        "RENEWER_HOME": "/x",
        "RENEWER_API_KEY": "k",
        "RENEWER_API_KEY_FILE": "/k",
        "RENEWER_CALLBACK_KEY": "k",
        "RENEWER_SESSION_ENTITY": "orders",
        "RENEWER_PORT_80_TCP__X": "1",
        "PATH": "/bin",
        "RENEWER_": "",
    }
    assert config.problems("", environ=environ) == []


def test_what_kubernetes_and_docker_tell_of_a_service_named_renewer_is_no_mistake(config: ConfigFile) -> None:
    environ = {
        "RENEWER_SERVICE_HOST": "10.0.0.1",
        "RENEWER_SERVICE_PORT": "8080",
        "RENEWER_SERVICE_PORT_METRICS": "9464",
        "RENEWER_SERVICE_PORT_A__B": "9465",
        "RENEWER_PORT": "tcp://10.0.0.1:8080",
        "RENEWER_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "RENEWER_PORT_8080_TCP_PROTO": "tcp",
        "RENEWER_PORT_8080_TCP_PORT": "8080",
        "RENEWER_PORT_8080_TCP_ADDR": "10.0.0.1",
        "RENEWER_METRICS_SERVICE_HOST": "10.0.0.2",
        "RENEWER__X_SERVICE_HOST": "10.0.0.3",
        "RENEWER_ENV_RENEWER_DAEMON__STATE_DIR": "/var/lib/renewer",
        "RENEWER_1_ENV_A__B": "x",
        "RENEWER__X_ENV_PATH": "/bin",
        "RENEWER__X_PORT": "udp://10.0.0.3:53",
        "RENEWER__X_PORT_53_UDP_ADDR": "10.0.0.3",
    }
    assert config.problems("", environ=environ) == []


def test_variables_of_commands_workers_and_tests_are_no_settings(config: ConfigFile) -> None:
    names = ("API", "API_KEY", "CONFIG", "LEASE", "SESSION_ID", "EPOCH", "ENTITY", "GATEWAY_KEY", "KILLS", "TEST_SEED")
    assert config.problems("", environ={f"RENEWER_{name}": "unix:x" for name in names}) == []


def test_a_variable_that_a_setting_names_may_be_called_anything(config: ConfigFile) -> None:
    environ = {"RENEWER_SECRETS__CALLBACK": "k", "RENEWER_DEAMON__KEY": "k", "RENEWER_WORKERS__KEY": "0123456789abcdef"}
    text = (
        '[servicebus.main]\nconnection_string = "$CONNECTION"\n[callback]\nkey_env = "RENEWER_SECRETS__CALLBACK"\n'
        '[[gateway]]\nlisten = "127.0.0.1:0"\n[[gateway.key]]\nname = "local"\nkey_env = "RENEWER_WORKERS__KEY"\n'
        'entities = ["*"]\n'
    )
    overrides = {"api.key_env": "RENEWER_DEAMON__KEY"}
    assert config.problems(text, environ=environ, overrides=overrides) == []
    assert [problem.key for problem in config.problems(text, environ=environ)] == ["RENEWER_DEAMON__KEY"]


def test_flags_that_were_not_given_change_nothing(config: ConfigFile) -> None:
    settings = config.load(
        '[daemon]\nlog_level = "debug"\n', overrides={"daemon.log_level": None, "api": {"key": None}}
    )
    assert settings.daemon.log_level == "debug"


@pytest.mark.parametrize(
    "overrides",
    [
        {"api.listen": "unix:/x"},
        {"api": {"listen": "unix:/x"}},
        {"api.listen": UnixListen(Path("/x"))},
    ],
)
def test_flags_are_dotted_keys_or_tables(config: ConfigFile, overrides: dict[str, Any]) -> None:
    assert config.load('[api]\nsocket_mode = "0600"\n', overrides=overrides).api.listen == UnixListen(Path("/x"))


def test_an_empty_table_takes_nothing_away(config: ConfigFile) -> None:
    settings = config.load(
        '[daemon]\nlog_level = "debug"\n', environ={"RENEWER_DAEMON": "{}"}, overrides={"daemon": {}}
    )
    assert settings.daemon.log_level == "debug"


def test_a_whole_section_can_be_json_in_one_variable(config: ConfigFile) -> None:
    daemon = config.load('[daemon]\nlog_level = "debug"\n', environ={"RENEWER_DAEMON": '{"log_format": "json"}'}).daemon
    assert (daemon.log_level, daemon.log_format) == ("debug", "json")


def test_line_ends_and_a_byte_order_mark_do_not_matter(config: ConfigFile) -> None:
    config.path.write_bytes(b'\xef\xbb\xbf[daemon]\r\nlog_level = "debug"\r\n')
    assert load(config.path, environ={}, overrides={}).daemon.log_level == "debug"


def test_settings_cannot_be_changed_afterwards() -> None:
    settings = Settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.daemon.log_level = "debug"  # type: ignore[misc]


def test_a_file_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    with pytest.raises(ConfigError, match="No such file") as caught:
        load(path, environ={}, overrides={})
    assert [problem.where for problem in caught.value.problems] == [str(path)]


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path, environ={}, overrides={})


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"[daemon]\n\xff")
    with pytest.raises(ConfigError, match="must be UTF-8; byte 9 is not"):
        load(path, environ={}, overrides={})


def test_a_path_that_leads_nowhere_is_said_to_do_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="Not a directory"):
        load(tmp_path / "file" / "config.toml", environ={}, overrides={})


def test_an_endless_file_is_not_read_to_its_end() -> None:
    with pytest.raises(ConfigError, match="at most 16 MiB"):
        load(Path("/dev/zero"), environ={}, overrides={})
