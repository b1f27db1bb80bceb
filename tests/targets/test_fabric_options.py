import pytest

from renewer.errors import ConfigError
from renewer.targets.fabric import FabricOptions
from renewer.targets.origins import split_url


def test_the_defaults_are_those_of_the_public_cloud():
    options = FabricOptions("main")
    assert str(options.origin) == "https://api.fabric.microsoft.com"
    assert options.base_path == "/v1"
    assert options.max_result_bytes == 64 * 1024 * 1024


@pytest.mark.parametrize(
    "base_url", ["http://127.0.0.1:8323/v1", "http://localhost/v1/", "http://[::1]:80/v1", "https://10.0.0.1/fabric/v1"]
)
def test_plain_http_is_for_loopback_and_https_for_every_host(base_url):
    assert FabricOptions("main", base_url=base_url).base_path.endswith("/v1")


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
        FabricOptions("main", base_url=base_url)
    [problem] = caught.value.problems
    assert (problem.where, problem.key) == ("fabric.main", "base_url")
    assert "https" in problem.remedy
    assert "hunter2" not in str(caught.value)


def test_every_mistake_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        FabricOptions("x", base_url="nowhere", allow_hosts=("*", "http://h.example"), max_result_bytes=0)
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
    options = FabricOptions("main", allow_hosts=("api.powerbi.com", "*.w.api.fabric.microsoft.com"))
    assert options.allows(split_url(url)[0]) is allowed
