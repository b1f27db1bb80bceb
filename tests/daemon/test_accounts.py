"""From the settings of accounts to the targets that follow their operations."""

from __future__ import annotations

from typing import Any

import pytest

from renewer.config import Settings, load
from renewer.core.quotas import Limit
from renewer.core.timing import PollPolicy
from renewer.daemon.build import account_options, accounts_of, build_operation_targets, token_source
from renewer.daemon.clock import SystemClock
from renewer.targets.azure import AzureTarget
from renewer.targets.fabric import FabricTarget
from renewer.targets.origins import split_url
from renewer.targets.tokens import AzureIdentityToken, EnvToken, FileToken, StaticToken


def settings(**groups: Any) -> Settings:
    return load(None, environ={}, overrides=groups)


def test_each_section_has_its_target_and_its_policy() -> None:
    given = settings(fabric={"main": {"token": "a"}}, azure={"main": {"token": "a", "refused_grace": "1m"}})
    targets = build_operation_targets(given, SystemClock())
    assert {name: type(target) for name, target in targets.items()} == {
        "fabric.main": FabricTarget,
        "azure.main": AzureTarget,
    }
    policies = {name: account.policy for name, account in accounts_of(given, targets).items()}
    assert policies == {"fabric.main": PollPolicy(), "azure.main": PollPolicy(refused_grace_s=60.0)}


def test_what_a_section_says_is_what_its_target_is_told() -> None:
    given = settings(
        azure={
            "main": {
                "base_url": "https://h.example.com/api",
                "allow_hosts": ["*.a.example.com", "10.0.0.0/8", "b:8443"],
                "max_result": "1MiB",
                "concurrency": 7,
                "limits": {"reads": "10/1m"},
            }
        }
    )
    options = account_options(given)["azure.main"]
    assert (options.name, options.identity, options.base_url) == (
        "azure.main",
        "azure.main",
        "https://h.example.com/api",
    )
    assert (options.max_result_bytes, options.max_connections) == (1024**2, 7)
    assert options.limits == {"reads": Limit(10, 60.0), "writes": None, "deletes": None}
    for url, allowed in (
        ("https://h.example.com/", True),
        ("https://x.a.example.com/", True),
        ("https://b:8443/", True),
        ("https://b/", False),
        ("https://10.0.0.1/", False),
    ):
        assert options.allows(split_url(url)[0]) is allowed


@pytest.mark.parametrize(
    "host",
    [
        "api.example.com",
        "api:8443",
        "*.w.api.fabric.microsoft.com",
        "*.a.b.c:8443",
        "https://x.example.com",
        "https://*.x.example.com",
        "http://127.0.0.1:8080",
        "http://localhost",
        "http://[::1]:1",
        "10.1.2.3",
        "[fd00::1]:8443",
        "10.0.0.0/8",
        "fd00::/8",
        "a_b.example.com",
    ],
)
def test_a_host_that_the_settings_let_pass_is_one_that_targets_know(host: str) -> None:
    given = settings(fabric={"main": {"allow_hosts": [host]}})
    assert account_options(given)["fabric.main"].allow_hosts == (host,)


def test_one_identity_at_one_host_has_one_set_of_quotas() -> None:
    given = settings(
        azure={
            "a": {"token": "x"},
            "b": {"token": "x", "limits": {"reads": "10/1m"}, "concurrency": 3},
            "c": {"token": "y"},
            "d": {"token": "x", "base_url": "https://other.example.com"},
        }
    )
    options = account_options(given)
    assert {name: found.identity for name, found in options.items()} == {
        "azure.a": "azure.a",
        "azure.b": "azure.a",
        "azure.c": "azure.c",
        "azure.d": "azure.d",
    }
    assert options["azure.a"].quota("reads") == options["azure.b"].quota("reads")
    assert options["azure.a"].quota("reads").limit == Limit(10, 60.0)
    assert options["azure.a"].quota("reads").at_once == 3
    assert options["azure.c"].quota("reads").limit is None


def test_accounts_whose_tokens_come_from_one_place_share_what_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def count(name: str, *arguments: Any) -> Any:
        made.append(name)
        return token_source(name, *arguments)

    monkeypatch.setattr("renewer.daemon.build.token_source", count)
    given = settings(
        fabric={"a": {"token": "x"}, "b": {"token": "x"}, "c": {}, "d": {"client_id": "another"}},
        azure={"a": {"token": "x"}, "b": {"scope": "https://api.fabric.microsoft.com/.default"}, "c": {}},
    )
    assert len(build_operation_targets(given, SystemClock())) == 7
    assert made == ["fabric.a", "fabric.c", "fabric.d", "azure.c"]


def test_a_token_comes_from_where_the_section_says(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("x")
    monkeypatch.setenv("TOKEN", "x")
    given = load(
        None,
        environ={"TOKEN": "x", "SECRET": "s"},
        overrides={
            "azure": {
                "text": {"token": "x"},
                "file": {"token_file": str(tmp_path / "token")},
                "env": {"token_env": "TOKEN"},
                "cli": {"credential": "azure-cli"},
                "app": {
                    "credential": "client-secret",
                    "tenant_id": "t",
                    "client_id": "c",
                    "client_secret_env": "SECRET",
                },
            }
        },
    )
    sources = [token_source(name, section, SystemClock(), {"SECRET": "s"}) for name, section in given.accounts()]
    kinds = [StaticToken, FileToken, EnvToken, AzureIdentityToken, AzureIdentityToken]
    assert [type(source) for source in sources] == kinds
    assert [repr(source) for source in sources[3:]] == [
        "AzureIdentityToken('https://management.azure.com/.default', 'azure-cli')",
        "AzureIdentityToken('https://management.azure.com/.default', 'client-secret')",
    ]
