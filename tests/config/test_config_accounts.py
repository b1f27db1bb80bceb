"""The settings of accounts that operations are followed on."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import pytest

from renewer.config import AccountSettings, AzureSettings, FabricSettings
from renewer.config.ratelimits import format_limit, parse_limit
from renewer.core.quotas import Limit
from renewer.core.timing import PollPolicy
from renewer.targets.tokens import CREDENTIAL_NAMES

if TYPE_CHECKING:
    from tests.config.conftest import ConfigFile

GROUPS = pytest.mark.parametrize("group", ["fabric", "azure"])


def test_both_kinds_of_account_have_the_same_settings_and_defaults_of_their_own() -> None:
    fabric, azure = FabricSettings(), AzureSettings()
    assert FabricSettings.model_fields.keys() == AzureSettings.model_fields.keys()
    assert (fabric.base_url, azure.base_url) == (
        "https://api.fabric.microsoft.com/v1",
        "https://management.azure.com",
    )
    assert (fabric.scope, azure.scope) == (
        "https://api.fabric.microsoft.com/.default",
        "https://management.azure.com/.default",
    )
    assert fabric.poll_policy() == azure.poll_policy() == PollPolicy()


def test_accounts_of_both_kinds_may_have_one_name_and_are_called_by_their_whole_names(config: ConfigFile) -> None:
    settings = config.load("[azure.main]\n[fabric.main]\n[fabric.other]\n")
    assert [name for name, _ in settings.accounts()] == ["fabric.main", "fabric.other", "azure.main"]


@GROUPS
def test_how_long_a_service_may_refuse_and_when_to_look_early_become_the_policy(config: ConfigFile, group: str) -> None:
    settings = config.load(f"[{group}.main]\nrefused_grace = '1m'\nearly_probe = '2s'\n")
    ((_, account),) = settings.accounts()
    assert account.poll_policy() == PollPolicy(refused_grace_s=60.0, early_probe_s=2.0)


def test_the_names_of_credentials_are_those_that_can_be_used() -> None:
    annotation = AccountSettings.model_fields["credential"].annotation
    assert get_args(annotation) == CREDENTIAL_NAMES


@GROUPS
def test_a_credential_is_chosen_by_name(config: ConfigFile, group: str) -> None:
    ((_, account),) = config.load(f"[{group}.main]\ncredential = 'Managed-Identity'\n").accounts()
    assert account.credential == "managed-identity"
    found = config.problems(f"[{group}.main]\ncredential = 'cli'\n")
    assert [(problem.key, problem.remedy) for problem in found] == [
        (f"{group}.main.credential", f"must be one of {', '.join(CREDENTIAL_NAMES)}")
    ]


@GROUPS
def test_the_source_of_a_token_is_named_by_its_section(config: ConfigFile, group: str) -> None:
    ((_, account),) = config.load(f"[{group}.main]\ntoken = 'a'\n").accounts()
    source = account.token_source("main")
    assert source is not None
    assert source.setting == f"{group}.main.token"
    found = config.problems(f"[{group}.main]\ntoken = 'a'\ntoken_file = 'x'\nscope = 'x'\n")
    assert {problem.key for problem in found} == {f"{group}.main.{key}" for key in ("token_file", "scope")}


# Limits ---------------------------------------------------------------------------------------------------------------


def test_fabric_counts_as_it_says_and_azure_as_nobody_knows() -> None:
    assert FabricSettings().limits.by_bucket() == {
        "platform": Limit(200, 60.0),
        "jobs": Limit(200, 60.0),
        "operations": None,
    }
    assert AzureSettings().limits.by_bucket() == {"reads": None, "writes": None, "deletes": None}


def test_limits_are_set_bucket_by_bucket(config: ConfigFile) -> None:
    text = "[fabric.main]\nlimits = { jobs = 'off', operations = '50/1m' }\n[azure.main.limits]\nreads = '1200/1h'\n"
    settings = config.load(text)
    assert settings.fabric["main"].limits.by_bucket() == {
        "platform": Limit(200, 60.0),
        "jobs": None,
        "operations": Limit(50, 60.0),
    }
    assert settings.azure["main"].limits.by_bucket()["reads"] == Limit(1200, 3600.0)


def test_limits_can_come_from_the_environment(config: ConfigFile) -> None:
    environ = {"RENEWER_FABRIC__MAIN__LIMITS__JOBS": "10/1s", "RENEWER_AZURE__MAIN__ALLOW_HOSTS": '["a.example.com"]'}
    settings = config.load("[fabric.main]\n", environ=environ)
    assert settings.fabric["main"].limits.jobs == Limit(10, 1.0)
    assert settings.azure["main"].allow_hosts == ("a.example.com",)


@pytest.mark.parametrize("host", ["127.0.0.1:8323", "localhost", "[::1]:8323"])
def test_on_this_machine_there_are_the_limits_alone_that_were_set(config: ConfigFile, host: str) -> None:
    text = f"[fabric.main]\nbase_url = 'http://{host}/v1'\n"
    assert set(config.load(text).fabric["main"].limits.by_bucket().values()) == {None}
    limits = config.load(text + "limits = { jobs = '5/1s' }\n").fabric["main"].limits
    assert limits.by_bucket() == {"platform": None, "jobs": Limit(5, 1.0), "operations": None}


def test_a_bucket_that_is_not_known_is_told_with_those_that_are(config: ConfigFile) -> None:
    found = config.problems("[fabric.main.limits]\njob = 'off'\n[azure.main.limits]\njobs = 'off'\n")
    assert [(problem.where, problem.key, problem.remedy) for problem in found] == [
        ("config.toml:2", "fabric.main.limits.job", "no such setting; did you mean jobs?"),
        ("config.toml:4", "azure.main.limits.jobs", "no such setting here; it belongs in [fabric.NAME.limits]"),
    ]
    found = config.problems("[fabric.main]\nlimits = '200/1m'\n[azure.main]\nreads = '200/1m'\n")
    assert [(problem.key, problem.remedy) for problem in found] == [
        ("fabric.main.limits", "must be a table, [fabric.main.limits]"),
        ("azure.main.reads", "no such setting here; it belongs in [azure.NAME.limits]"),
    ]


@pytest.mark.parametrize("value", ["'200'", "'200/m'", "'x/1m'", "200", "true", "''", "'/'", "'1/1m/1m'", "'٢/1m'"])
def test_what_is_no_limit_is_told_with_what_would_be_one(config: ConfigFile, value: str) -> None:
    found = config.problems(f"[fabric.main]\nlimits = {{ jobs = {value} }}\n")
    assert [problem.key for problem in found] == ["fabric.main.limits.jobs"]
    assert '"200/1m", or "off"' in found[0].remedy
    assert found[0].where == "config.toml:2"


@pytest.mark.parametrize("value", ["0/1m", "-1/1m", "1000001/1m", "200/0s", "200/500ms", "200/2d"])
def test_limits_have_limits(value: str) -> None:
    with pytest.raises(ValueError, match="must be so many requests"):
        parse_limit(value)


@pytest.mark.parametrize("text", ["1/1s", "200/1m", "1000000/1d", "30/90s", "off"])
def test_limits_are_written_as_they_are_read(text: str) -> None:
    assert format_limit(parse_limit(text)) == text


# Hosts ----------------------------------------------------------------------------------------------------------------


def test_hosts_and_networks_are_kept_in_lower_case(config: ConfigFile) -> None:
    hosts = [
        "Api.Example.com",
        "api:8443",
        "*.w.api.fabric.microsoft.com",
        "https://x.example.com",
        "http://127.0.0.1:8080",
        "http://localhost",
        "10.1.2.3",
        "[fd00::1]:8443",
        "10.0.0.0/8",
        "fd00::/8",
    ]
    settings = config.load(f"[fabric.main]\nallow_hosts = {hosts}\n")
    assert settings.fabric["main"].allow_hosts == tuple(host.lower() for host in hosts)


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("*.com", "3 names or more"),
        ("*.microsoft.com", "3 names or more"),
        ("*", ""),
        ("*.10.0.0.1", ""),
        ("a.*.example.com", ""),
        ("http://api.example.com", "for loopback alone"),
        ("http://*.a.b.localhost", "for loopback alone"),
        ("ftp://api.example.com", ""),
        ("https://api.example.com/path", ""),
        ("user@api.example.com", ""),
        ("api.example.com:0", ""),
        ("api.example.com:70000", ""),
        ("10.0.0.1/8", "the network is 10.0.0.0/8"),
        ("10.0.0.0/33", ""),
        ("169.254.0.0/16", "no name may lead there"),
        ("127.0.0.0/8", "no name may lead there"),
        ("fe80::/10", "no name may lead there"),
        ("api.example.com\\n", ""),
        ("", ""),
    ],
)
@GROUPS
def test_what_is_no_host_is_told_by_its_number(config: ConfigFile, group: str, host: str, reason: str) -> None:
    found = config.problems(f'[{group}.main]\nallow_hosts = ["good.example.com", "{host}"]\n')
    assert [problem.key for problem in found] == [f"{group}.main.allow_hosts"]
    assert "wrong: number 2" in found[0].remedy
    assert reason in found[0].remedy


def test_a_list_of_hosts_is_a_list(config: ConfigFile) -> None:
    assert "must be a list" in config.problems("[azure.main]\nallow_hosts = 'api.example.com'\n")[0].remedy
    assert "number 1" in config.problems("[azure.main]\nallow_hosts = [1]\n")[0].remedy


# Together -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key", "remedy"),
    [
        ("refused_grace = '2h'\ndeadline = '1h'", "refused_grace", "at most deadline, which is 1h"),
        ("early_probe = '2m'\ndeadline = '1m'", "early_probe", "at most deadline, which is 1m"),
        ("early_probe = '2s'\npoll_floor = '5s'", "poll_floor", "at most early_probe, which is 2s"),
    ],
)
@GROUPS
def test_spans_that_were_given_must_agree(config: ConfigFile, group: str, text: str, key: str, remedy: str) -> None:
    found = config.problems(f"[{group}.main]\n{text}\n")
    assert [problem.key for problem in found] == [f"{group}.main.{key}"]
    assert remedy in found[0].remedy


@pytest.mark.parametrize("text", ["deadline = '10s'", "early_probe = '100ms'", "poll_floor = '1m'"])
def test_a_span_that_was_given_asks_nothing_of_those_that_were_not(config: ConfigFile, text: str) -> None:
    assert config.problems(f"[azure.main]\n{text}\n") == []


@pytest.mark.parametrize("value", ["50ms", "6m", "off", "0s"])
def test_an_early_probe_has_its_bounds(config: ConfigFile, value: str) -> None:
    found = config.problems(f"[azure.main]\nearly_probe = '{value}'\n")
    assert [problem.key for problem in found] == ["azure.main.early_probe"]
    assert "from 100ms to 5m" in found[0].remedy or "a duration such as" in found[0].remedy


# Identities -----------------------------------------------------------------------------------------------------------


@GROUPS
def test_an_application_lets_itself_in_by_its_secret(config: ConfigFile, group: str) -> None:
    text = f"[{group}.main]\ncredential = 'client-secret'\ntenant_id = 'contoso.com'\nclient_id = 'an-id'\n"
    assert config.problems(text + "client_secret = 'abc'\n") == []
    found = config.problems(text)
    assert [problem.key for problem in found] == [f"{group}.main.credential"]
    assert "client_secret_file" in found[0].remedy


@GROUPS
def test_what_is_said_of_an_identity_has_no_effect_beside_a_token(config: ConfigFile, group: str) -> None:
    found = config.problems(f"[{group}.main]\ntoken = 'a'\ntenant_id = 'b'\nclient_secret_env = 'C'\nscope = 'd'\n")
    assert {problem.key for problem in found} == {
        f"{group}.main.{key}" for key in ("tenant_id", "client_secret_env", "scope")
    }


def test_sections_are_one_identity_if_their_tokens_and_their_hosts_are(config: ConfigFile) -> None:
    settings = config.load(
        "[azure.a]\ntoken = 'x'\n"
        "[azure.b]\ntoken = 'x'\nbase_url = 'https://management.azure.com:443/subscriptions'\n"
        "[azure.c]\ntoken = 'y'\n"
        "[azure.d]\ntoken = 'x'\nbase_url = 'https://other.example.com'\n"
        "[azure.e]\n"
        "[azure.f]\nclient_id = 'another'\n"
        "[azure.g]\nscope = 'https://other.example.com/.default'\n"
        "[fabric.a]\ntoken = 'x'\nbase_url = 'https://management.azure.com'\n"
    )
    keys = {name: account.identity_key() for name, account in settings.accounts()}
    assert keys["azure.a"] == keys["azure.b"]
    assert len(set(keys.values())) == len(keys) - 1
    tokens = {name: account.token_key() for name, account in settings.accounts()}
    assert len({tokens[f"azure.{name}"] for name in ("a", "b", "d")} | {tokens["fabric.a"]}) == 1
    assert "x" not in repr(keys["azure.a"]).replace("management.azure.com", "")


def test_what_one_identity_may_use_is_not_said_in_two_ways(config: ConfigFile) -> None:
    first = "[azure.a]\ntoken = 'x'\nlimits = { reads = '10/1m' }\nconcurrency = 8\n"
    assert config.problems(first + "[azure.b]\ntoken = 'x'\n") == []
    assert config.problems(first + "[azure.b]\ntoken = 'y'\nconcurrency = 9\n") == []
    found = config.problems(first + "[azure.b]\ntoken = 'x'\nlimits = { reads = '20/1m' }\nconcurrency = 9\n")
    assert [problem.key for problem in found] == ["azure.b.limits", "azure.b.concurrency"]
    assert "as in [azure.a]" in found[0].remedy
