"""Secrets from files and variables."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from renewer.config import SecretSource, resolve_secret
from renewer.errors import ConfigError

if TYPE_CHECKING:
    from tests.config.conftest import ConfigFile


def test_a_secret_is_read_from_wherever_it_is(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-file\n")
    assert resolve_secret(SecretSource("a", value=SecretStr("x")), {}).get_secret_value() == "x"
    assert resolve_secret(SecretSource("a", file=tmp_path / "key"), {}).get_secret_value() == "from-file"
    assert resolve_secret(SecretSource("a", env="KEY"), {"KEY": " from-env "}).get_secret_value() == "from-env"


def test_a_file_is_read_again_each_time(tmp_path: Path) -> None:
    source = SecretSource("a", file=tmp_path / "key")
    for text in ("one", "two"):
        (tmp_path / "key").write_text(text)
        assert resolve_secret(source, {}).get_secret_value() == text


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (b"", "this one is empty"),
        (b" \n\n", "this one is empty"),
        (b"one\ntwo", "must be one line"),
        (b"\xff", "in UTF-8"),
        (b"x" * 65537, "at most 64 KiB"),
    ],
)
def test_a_file_that_holds_no_secret_is_a_mistake(tmp_path: Path, content: bytes, remedy: str) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ConfigError, match=remedy) as caught:
        resolve_secret(SecretSource("api.key", file=tmp_path / "key"), {})
    assert caught.value.problems[0].key == "api.key_file"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="must name a regular file"):
        resolve_secret(SecretSource("a", file=tmp_path / "pipe"), {})


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        (SecretSource("a", file=Path("/not/there")), "must name a readable file; No such file"),
        (SecretSource("a", file=Path("/")), "must name a regular file"),
        (SecretSource("a", env="UNSET"), "must name an environment variable that is set"),
        (SecretSource("a", env="EMPTY"), "this one is empty"),
        (SecretSource("a", value=SecretStr("")), "must not be empty"),
        (SecretSource("a"), "must not be empty"),
    ],
)
def test_a_secret_that_cannot_be_had_is_a_mistake(source: SecretSource, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        resolve_secret(source, {"EMPTY": ""})


def test_a_source_gives_nothing_away() -> None:
    assert "TOPSECRET" not in repr(SecretSource("a", value=SecretStr("TOPSECRET")))


def test_all_files_and_variables_are_looked_at_when_settings_are_loaded(config: ConfigFile) -> None:
    text = "\n".join(
        [
            "[api]",
            "key_file = 'none'",
            "[servicebus.main]",
            "connection_string_file = 'connection'",
            "[servicebus.other]",
            "connection_string_env = 'CONNECTION'",
            "[fabric.main]",
            "token_env = 'TOKEN'",
        ]
    )
    (config.folder / "connection").write_text("Endpoint=sb://h;SharedAccessKeyName=n\n")
    found = config.problems(text, environ={"CONNECTION": ""})
    assert [(problem.where, problem.key, problem.value) for problem in found] == [
        ("config.toml:2", "api.key_file", '"none"'),
        ("config.toml:4", "servicebus.main.connection_string_file", '"connection"'),
        ("config.toml:6", "servicebus.other.connection_string_env", '"CONNECTION"'),
        ("config.toml:8", "fabric.main.token_env", '"TOKEN"'),
    ]
    assert found[1].remedy == "SharedAccessKey is missing"


def test_settings_say_where_their_secrets_are(config: ConfigFile) -> None:
    (config.folder / "key").write_text("k")
    settings = config.load(
        "[api]\nkey_file = 'key'\n[servicebus.main]\nconnection_string = '$CONNECTION'\n[fabric.f]\n"
    )
    source = settings.api.key_source()
    assert source is not None
    assert (source.setting, resolve_secret(source, {}).get_secret_value()) == ("api.key_file", "k")
    assert settings.servicebus["main"].connection_string_source("main").setting == "servicebus.main.connection_string"
    assert settings.fabric["f"].token_source("f") is None
    assert "bG9jYWw" not in repr(settings)
