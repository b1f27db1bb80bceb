"""What the doctor says of files with secrets in them."""

from __future__ import annotations

import grp
import os
import pwd
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

import renewer.config
from renewer.cli.doctor import examine
from renewer.cli.doctor.findings import Finding, Verdict
from renewer.cli.doctor.secretfiles import (
    PUBLIC_SETTINGS,
    SECRET_SETTINGS,
    SecretFile,
    examine_secret_file,
    secret_files,
)
from renewer.config import load
from tests.cli.doctor_rig import findings_of, settings
from tests.targets.tls_rig import Authority

KEY = "c2VjcmV0LW9mLXdvcmtlcnM="
SERVICE_GID = 4711


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that everybody may enter, as /etc is: those above it count as if they were not there."""
    made = tmp_path / "etc"
    made.mkdir()
    made.chmod(0o755)
    real = Path.stat

    def stat(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        found = real(path, follow_symlinks=follow_symlinks)
        if path in made.parents:
            found = os.stat_result((0o40755, *found[1:]))
        return found

    monkeypatch.setattr(Path, "stat", stat)
    return made


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whom the group of a service has as members; the user `service` is in it from the start."""
    members: list[str] = []
    group = SimpleNamespace(gr_name="service", gr_mem=members, gr_gid=SERVICE_GID)
    monkeypatch.setattr(grp, "getgrgid", lambda _gid: group)
    monkeypatch.setattr(pwd, "getpwall", lambda: [SimpleNamespace(pw_name="service", pw_gid=os.getgid())])
    return members


def secret(folder: Path, mode: int) -> SecretFile:
    path = folder / "key"
    path.write_text(KEY)
    path.chmod(mode)
    return SecretFile("api.key_file", path)


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o440, 0o640])
@pytest.mark.usefixtures("group")
def test_a_file_for_its_owner_and_the_daemon_is_well(folder: Path, mode: int) -> None:
    found = examine_secret_file(secret(folder, mode))
    assert found.verdict is Verdict.OK
    assert found.seen.startswith(f"{folder}/key, {mode:04o}, owner ")


@pytest.mark.parametrize(
    ("mode", "may"), [(0o644, "read"), (0o444, "read"), (0o666, "read and change"), (0o602, "change")]
)
@pytest.mark.usefixtures("group")
def test_a_file_for_everybody_is_a_warning(folder: Path, mode: int, may: str) -> None:
    found = examine_secret_file(secret(folder, mode))
    assert found.verdict is Verdict.WARN
    assert f"{mode:04o}" in found.seen
    assert found.seen.endswith(f"every user of this machine may {may} it")
    assert f"chmod 0640 {folder}/key" in str(found.remedy)


def test_a_file_whose_group_has_others_in_it_is_a_warning(folder: Path, group: list[str]) -> None:
    group += ["worker", "root", "backup", "alice", "bob"]
    found = examine_secret_file(secret(folder, 0o640))
    assert found.verdict is Verdict.WARN
    assert "alice, backup, bob and 1 more may read it, as members of the group" in found.seen
    assert examine_secret_file(secret(folder, 0o600)).verdict is Verdict.OK


@pytest.mark.usefixtures("group")
def test_a_group_that_is_that_of_many_users_is_a_warning(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users = [SimpleNamespace(pw_name=name, pw_gid=os.getgid()) for name in ("alice", "bob")]
    monkeypatch.setattr(pwd, "getpwall", lambda: users)
    found = examine_secret_file(secret(folder, 0o660))
    assert "alice, bob may read and change it" in found.seen


def test_a_group_that_nobody_knows_is_well(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_gid: int) -> Any:
        raise KeyError

    monkeypatch.setattr(grp, "getgrgid", unknown)
    assert examine_secret_file(secret(folder, 0o440)).verdict is Verdict.OK


def test_a_file_where_others_cannot_get_is_well(folder: Path, group: list[str]) -> None:
    group.append("worker")
    file = secret(folder, 0o644)
    folder.chmod(0o700)
    assert examine_secret_file(file).verdict is Verdict.OK
    folder.chmod(0o750)
    assert "worker may read it" in examine_secret_file(file).seen


@pytest.mark.usefixtures("group")
def test_what_a_kubelet_mounts_is_looked_at_where_it_lies(folder: Path) -> None:
    (folder / "..2026_11_23").mkdir(mode=0o755)
    (folder / "..data").symlink_to("..2026_11_23")
    (folder / "gateway").symlink_to("..data/key")
    file = SecretFile("gateway[0].key[0].key_file", folder / "gateway")
    secret(folder / "..data", 0o440)
    assert examine_secret_file(file).verdict is Verdict.OK
    secret(folder / "..data", 0o644)
    found = examine_secret_file(file)
    assert found.verdict is Verdict.WARN
    assert f"{folder}/gateway, 0644" in found.seen
    assert "defaultMode: 0440" in str(found.remedy)


def test_a_file_that_is_gone_is_not_a_failure(tmp_path: Path) -> None:
    found = examine_secret_file(SecretFile("api.key_file", tmp_path / "key"))
    assert found.verdict is Verdict.OK
    assert "not looked at" in found.seen


def test_every_setting_that_names_a_file_is_known_as_secret_or_public() -> None:
    source = "\n".join(path.read_text() for path in Path(renewer.config.__file__).parent.glob("*.py"))
    assert set(re.findall(r"^    (\w+_file): PathSetting", source, flags=re.MULTILINE)) == (
        SECRET_SETTINGS | PUBLIC_SETTINGS
    )


def test_files_are_found_wherever_settings_name_them(tmp_path: Path) -> None:
    for name in ("servicebus", "client", "gateway", "api", "token"):
        text = f"Endpoint=sb://a.servicebus.windows.net;SharedAccessKeyName=a;SharedAccessKey={KEY}"
        (tmp_path / name).write_text(text if name == "servicebus" else KEY)
    Authority(tmp_path).server("gateway.example")
    (certificate,) = tmp_path.glob("server-*.pem")
    guid = "72f988bf-86f1-41af-91ab-2d7cd011db47"
    identity = {"credential": "client-secret", "tenant_id": guid, "client_id": guid}
    made = settings(
        tmp_path,
        {"api": {"key_file": str(tmp_path / "api")}},
        {"servicebus": {"main": {"connection_string_file": str(tmp_path / "servicebus")}}},
        {"fabric": {"main": {"token_file": str(tmp_path / "token")}}},
        {"azure": {"arm": {**identity, "client_secret_file": str(tmp_path / "client")}}},
        {
            "gateway": [
                {
                    "tls_cert_file": str(certificate),
                    "key": [{"name": "a", "key_file": str(tmp_path / "gateway"), "entities": ["*"]}],
                }
            ]
        },
    )
    assert {file.setting: file.path for file in secret_files(made, None)} == {
        "api.key_file": tmp_path / "api",
        "servicebus.main.connection_string_file": tmp_path / "servicebus",
        "fabric.main.token_file": tmp_path / "token",
        "azure.arm.client_secret_file": tmp_path / "client",
        "gateway[0].tls_cert_file": certificate,
        "gateway[0].key[0].key_file": tmp_path / "gateway",
    }


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        (f'[api]\nkey = "{KEY}"\n', "api.key"),
        (
            '[servicebus.main]\nconnection_string = "Endpoint=sb://a.servicebus.windows.net;SharedAccessKeyName=a;'
            f'SharedAccessKey={KEY}"\n',
            "servicebus.main.connection_string",
        ),
        (
            '[servicebus.main]\nconnection_string = "Endpoint=sb://127.0.0.1:5672;SharedAccessKeyName=a;'
            f'SharedAccessKey={KEY};UseDevelopmentEmulator=true"\n',
            None,
        ),
        ('[fabric.main]\nbase_url = "http://127.0.0.1:8323/v1"\ntoken = "local"\n', None),
        ('[fabric.main]\ntoken = "local"\n', "fabric.main.token"),
        (
            '[servicebus.main]\nfully_qualified_namespace = "a.servicebus.windows.net"\n[[gateway]]\n'
            f'[[gateway.key]]\nname = "a"\nkey = "{KEY}"\nentities = ["*"]\n',
            "gateway[0].key[0].key",
        ),
    ],
)
def test_a_configuration_with_secrets_in_it_is_such_a_file(tmp_path: Path, text: str, setting: str | None) -> None:
    config = tmp_path / "config.toml"
    config.write_text(text)
    found = secret_files(load(config, environ={}, overrides={}), config)
    assert found == ([] if setting is None else [SecretFile(setting, config)])


def test_what_was_found_is_told_under_the_setting(folder: Path) -> None:
    file = secret(folder, 0o644)

    async def look() -> dict[str, Finding]:
        return await findings_of(settings(folder, {"api": {"key_file": str(file.path)}}), "secrets")

    found = anyio.run(look)
    assert {check: finding.verdict for check, finding in found.items()} == {"api.key_file": Verdict.WARN}
    assert KEY not in str(found)


def test_without_such_files_nothing_is_said(tmp_path: Path) -> None:
    async def look() -> list[Finding]:
        return await examine(None, settings(tmp_path))

    assert "secrets" not in {finding.subject for finding in anyio.run(look)}
