import pytest
from hypothesis import given
from hypothesis import strategies as st

from renewer.targets.origins import Origin, parse_host_pattern, redact, split_url


def test_equal_servers_have_equal_origins():
    plain = Origin("https", "api.fabric.microsoft.com", 443)
    for text in (
        "https://api.fabric.microsoft.com",
        "HTTPS://API.Fabric.Microsoft.COM/v1",
        "https://api.fabric.microsoft.com:443/v1?x=1",
        "https://api.fabric.microsoft.com./",
    ):
        assert split_url(text)[0] == plain
    assert split_url("https://api.fabric.microsoft.com:444/")[0] != plain
    assert split_url("http://api.fabric.microsoft.com:443/")[0] != plain


def test_ipv6_addresses_are_compared_by_value():
    assert split_url("http://[0:0:0:0:0:0:0:1]:80/")[0] == split_url("http://[::1]/")[0]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/v1/operations",
        "api.fabric.microsoft.com/v1",
        "ftp://host/x",
        "file:///etc/passwd",
        "https://",
        "https:///path",
        "https://user@host/",
        "https://user:secret@host/",
        "https://good.example@evil.example/",
        "https://good.example\\@evil.example/",
        "https://good.example\\.evil.example/",
        "https://host:0/",
        "https://host:99999/",
        "https://host:port/",
        "https://ho st/",
        "https://höst/",
        "https://host/a b",
        "https://host/a\nb",
        "https://host/\x00",
        "https://host/ä",
        "https://host/a#fragment",
        "https://host/a/../b",
        "https://host/a/%2e%2E/b",
        "https://host/a/.",
        "https://host//evil.example/x",
        "https://host/a\\b",
        "https://*.example.com/",
        "https://a..b/",
        "https://[::1/",
        "https://[zz::1]/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0X7F.1/",
        "https://127.1/",
        "https://0177.0.0.1/",
        "https://127.0.0.256/",
        "https://good.example.1/",
        "https://good.example.0x1/",
        "https://host/" + "a" * 9000,
    ],
)
def test_what_two_parsers_could_understand_differently_is_refused(url):
    with pytest.raises(ValueError, match=r"^(is|must|has|holds|Expected|At|Only)"):
        split_url(url)


@given(st.text(max_size=80))
def test_no_text_raises_anything_but_a_value_error(text):
    for url in (text, f"https://{text}", f"https://host{text}"):
        try:
            origin, path, _ = split_url(url)
        except ValueError:
            continue
        assert path.startswith("/")
        assert str(origin).isascii()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.8.7", "[::1]"])
def test_loopback_may_see_tokens_over_plain_http(host):
    assert split_url(f"http://{host}:8323/")[0].may_see_tokens


@pytest.mark.parametrize("host", ["localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "0.0.0.0", "[::]"])
def test_no_other_host_may(host):
    assert not split_url(f"http://{host}/")[0].may_see_tokens
    assert split_url(f"https://{host}/")[0].may_see_tokens


def test_a_pattern_means_one_host_or_all_below_it():
    one = parse_host_pattern("api.powerbi.com")
    assert one.matches(Origin("https", "api.powerbi.com", 443))
    assert not one.matches(Origin("https", "x.api.powerbi.com", 443))
    assert not one.matches(Origin("http", "api.powerbi.com", 80))
    many = parse_host_pattern("*.w.api.fabric.microsoft.com")
    assert many.matches(Origin("https", "abc.zab.w.api.fabric.microsoft.com", 443))
    assert not many.matches(Origin("https", "w.api.fabric.microsoft.com", 443))
    assert not many.matches(Origin("https", "evilw.api.fabric.microsoft.com", 443))
    assert not many.matches(Origin("https", "abc.w.api.fabric.microsoft.com", 8443))


def test_a_name_with_numbers_in_it_is_a_name():
    for host in ("1.example.com", "0x.example", "127.0.0.1.example", "1e2"):
        origin, _, _ = split_url(f"https://{host}/")
        assert (origin.host, origin.address) == (host, None)
    assert str(split_url("https://10.0.0.1/")[0].address) == "10.0.0.1"
    assert str(split_url("https://[FD00::1]/")[0].address) == "fd00::1"


@pytest.mark.parametrize(
    "entry",
    ["", "*", "*.com", "*.example.com", "http://example.com", "a b", "https://u@h", "h/x", "*.10.0.0.1", "*.0.0.1"],
)
def test_patterns_that_would_let_too_much_in_are_refused(entry):
    with pytest.raises(ValueError, match=r"must|valid|address"):
        parse_host_pattern(entry)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see https://h.example/a?sig=abc&t=1 now", "see https://h.example/a?*** now"),
        ("https://user:pw@h.example/a", "https://***@h.example/a"),
        ("Authorization: Bearer abc.def-1234", "Authorization: Bearer ***"),
        ("token eyJhbGciOiJub25lIn0.eyJhIjoxfQ.sig is bad", "token *** is bad"),
        ("/v1/x?a=1&sig=secret&b=2", "/v1/x?a=1&sig=***&b=2"),
        ("two\nlines\x1b[31m", "two lines [31m"),
        ("plain words", "plain words"),
    ],
)
def test_what_is_shown_holds_no_secrets_and_no_control_characters(text, shown):
    assert redact(text) == shown


def test_what_is_shown_is_cut():
    assert len(redact("x" * 10_000)) == 300
    assert redact("a" * 1190 + " Bearer secretsecret", limit=300).count("secret") == 0
