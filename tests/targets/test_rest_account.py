import pytest

from renewer.core.quotas import Limit, Quota
from renewer.errors import ConfigError
from renewer.targets.origins import split_url
from renewer.targets.rest import AccountOptions
from tests.targets.fabric_rig import fabric_options


def test_the_defaults_are_those_of_the_public_cloud():
    options = fabric_options()
    assert str(options.origin) == "https://api.fabric.microsoft.com"
    assert options.base_path == "/v1"
    assert options.max_result_bytes == 64 * 1024 * 1024


@pytest.mark.parametrize(
    "base_url", ["http://127.0.0.1:8323/v1", "http://localhost/v1/", "http://[::1]:80/v1", "https://10.0.0.1/fabric/v1"]
)
def test_plain_http_is_for_loopback_and_https_for_every_host(base_url):
    assert fabric_options(base_url).base_path.endswith("/v1")


@pytest.mark.parametrize(
    "base_url",
    [
        "http://api.fabric.microsoft.com/v1",
        "http://10.0.0.1/v1",
        "http://localhost.evil.example/v1",
        "ftp://127.0.0.1/v1",
        "api.fabric.microsoft.com/v1",
        "https://api.fabric.microsoft.com/v1?x=1",
        "https://user:hunter2@api.fabric.microsoft.com/v1",
        "",
    ],
)
def test_a_base_url_that_would_show_the_token_is_a_mistake_with_a_remedy(base_url):
    with pytest.raises(ConfigError) as caught:
        fabric_options(base_url)
    [problem] = caught.value.problems
    assert (problem.where, problem.key) == ("fabric.main", "base_url")
    assert "https" in problem.remedy
    assert "hunter2" not in str(caught.value)


def test_every_mistake_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        AccountOptions("azure.x", "nowhere", allow_hosts=("*", "http://h.example"), max_result_bytes=0)
    assert [problem.key for problem in caught.value.problems] == [
        "base_url",
        "allow_hosts",
        "allow_hosts",
        "max_result_bytes",
    ]


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://api.fabric.microsoft.com/x", True),
        ("https://API.fabric.microsoft.com:443/x", True),
        ("https://api.powerbi.com/x", True),
        ("https://ws.zab.w.api.fabric.microsoft.com/x", True),
        ("https://w.api.fabric.microsoft.com/x", False),
        ("https://api.fabric.microsoft.com:8443/x", False),
        ("http://api.fabric.microsoft.com:443/x", False),
        ("https://api.fabric.microsoft.com.evil.example/x", False),
        ("https://169.254.169.254/x", False),
    ],
)
def test_only_the_host_and_those_listed_may_see_the_token(url, allowed):
    options = fabric_options(allow_hosts=("api.powerbi.com", "*.w.api.fabric.microsoft.com"))
    assert options.allows(split_url(url)[0]) is allowed


def test_networks_say_where_names_may_lead_and_let_no_host_in():
    options = fabric_options(allow_hosts=("*.w.api.fabric.microsoft.com", "10.0.0.0/8", "fd00::/8", "h.example:8443"))
    assert [str(network) for network in options.addresses.networks] == ["10.0.0.0/8", "fd00::/8"]
    assert options.addresses.listed == {("api.fabric.microsoft.com", 443), ("h.example", 8443)}
    for url in ("https://10.0.0.1/x", "https://[fd00::1]/x", "https://10.0.0.1.w.api.fabric.microsoft.com.evil/x"):
        assert not options.allows(split_url(url)[0])


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "10.0.0.0/33", "fd00::1/8", "10.0.0/8", "*.10.0.0.1", "2130706433"])
def test_what_is_no_network_and_no_host_is_a_mistake(entry):
    with pytest.raises(ConfigError) as caught:
        fabric_options(allow_hosts=(entry,))
    assert [problem.key for problem in caught.value.problems] == ["allow_hosts"]


def test_an_address_is_allowed_only_where_it_is_listed_itself():
    options = fabric_options(allow_hosts=("10.0.0.1:8443", "[fd00::1]"))
    assert options.allows(split_url("https://10.0.0.1:8443/")[0])
    assert options.allows(split_url("https://[FD00:0::1]/")[0])
    others = ["https://10.0.0.1/", "http://10.0.0.1:8443/", "https://10.0.0.2:8443/", "https://[::ffff:10.0.0.1]:8443/"]
    for url in others:
        assert not options.allows(split_url(url)[0])


def test_a_quota_is_named_by_identity_host_and_bucket():
    options = AccountOptions(
        "azure.a", "https://h.example", identity="azure.b", limits={"reads": Limit(5, 1.0)}, max_connections=3
    )
    elsewhere = split_url("https://other.example:8443/")[0]
    assert options.quota("reads") == options.quota("reads", options.origin) == Quota("azure.b reads", Limit(5, 1.0), 3)
    assert options.quota("writes", elsewhere) == Quota("azure.b other.example:8443 writes", None, 3)
    assert AccountOptions("azure.a", "https://h.example").quota("reads").name == "azure.a reads"
