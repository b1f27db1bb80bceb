"""The settings of callbacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from renewer.config import CallbackSettings, resolve_secret

if TYPE_CHECKING:
    from tests.config.conftest import ConfigFile


def test_without_a_section_this_machine_alone_is_called_and_nothing_signed() -> None:
    settings = CallbackSettings()
    assert settings.allow_hosts == ()
    assert settings.key_source() is None


def test_hosts_are_kept_in_lower_case(config: ConfigFile) -> None:
    text = '[callback]\nallow_hosts = ["Hooks.Example.com", "hooks:8443", "*.example.com", "[fd00::1]:1", "10.0.0.1"]\n'
    assert config.load(text).callback.allow_hosts == (
        "hooks.example.com",
        "hooks:8443",
        "*.example.com",
        "[fd00::1]:1",
        "10.0.0.1",
    )


def test_hosts_can_come_from_the_environment(config: ConfigFile) -> None:
    environ = {"RENEWER_CALLBACK__ALLOW_HOSTS": '["a.example.com", "b.example.com"]'}
    assert config.load("", environ=environ).callback.allow_hosts == ("a.example.com", "b.example.com")


@pytest.mark.parametrize(
    "host",
    [
        "",
        "https://hooks.example.com",
        "hooks.example.com/path",
        "user@hooks.example.com",
        "*",
        "*.com",
        "a.*.com",
        "*example.com",
        "hooks.example.com:0",
        "hooks.example.com:70000",
        "hooks.example.com:",
        "hooks .example.com",
        "hooks..example.com",
        "1.2.3",
        "[fd00::1",
        "[nonsense]",
        "fd00::1",
        "*.[fd00::1]",
        "hooks.example.com\\n",
    ],
)
def test_what_is_no_host_is_refused(config: ConfigFile, host: str) -> None:
    found = config.problems(f'[callback]\nallow_hosts = ["good.example.com", "{host}"]\n')
    assert [problem.key for problem in found] == ["callback.allow_hosts"]
    assert found[0].remedy.endswith("wrong: number 2")


@pytest.mark.parametrize("value", ['"a.example.com"', "7", "{ a = 1 }", "[1]", '[["a.example.com"]]'])
def test_hosts_are_a_list_of_texts(config: ConfigFile, value: str) -> None:
    found = config.problems(f"[callback]\nallow_hosts = {value}\n")
    assert [problem.key for problem in found] == ["callback.allow_hosts"]
    assert found[0].remedy.startswith("must be a list, each entry a host such as")


def test_the_key_can_come_from_a_file(config: ConfigFile) -> None:
    (config.folder / "callback.key").write_text("from file\n")
    source = config.load('[callback]\nkey_file = "callback.key"\n').callback.key_source()
    assert source is not None
    assert resolve_secret(source, {}).get_secret_value() == "from file"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("key = 'a'\nkey_env = 'B'", "callback.key_env"),
        ("key_file = 'missing'", "callback.key_file"),
        ("key_env = 'MISSING'", "callback.key_env"),
        ("key = ''", "callback.key"),
        ("timeout = '0s'", "callback.timeout"),
        ("give_up = '400d'", "callback.give_up"),
        ("give_up = '5s'", "callback.give_up"),
        ("timeout = '1m'\ngive_up = '30s'", "callback.timeout"),
        ("url = 'x'", "callback.url"),
    ],
)
def test_mistakes_are_found(config: ConfigFile, text: str, key: str) -> None:
    found = config.problems(f"[callback]\n{text}\n", environ={"B": "b"})
    assert [problem.key for problem in found] == [key]


def test_the_key_is_not_shown(config: ConfigFile) -> None:
    assert "top-secret" not in repr(config.load("[callback]\nkey = 'top-secret'\n"))
