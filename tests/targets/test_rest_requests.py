import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from renewer.core.model import Ended, StillRunning
from renewer.errors import UsageError
from renewer.targets.fabric.places import operation_id, path_of_location
from renewer.targets.rest import locate, parse_adopt, parse_submit
from renewer.targets.rest.requests import answer_of, content_of
from tests.targets.fabric_rig import ACCEPTED, OPERATION_ID, STATE_PATH, Rig, fabric_options

OPTIONS = fabric_options()
LOCAL = fabric_options("http://127.0.0.1:8323/fabric/v1")


def submit(**fields):
    return parse_submit({"method": "POST", "url": "/workspaces/w1/notebooks", **fields}, OPTIONS)


def adopt(**fields):
    return parse_adopt({"method": "POST", "url": "/workspaces/w1/notebooks", "status": 202, **fields}, OPTIONS)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("/workspaces/w1/notebooks", "/v1/workspaces/w1/notebooks"),
        ("workspaces/w1/notebooks", "/v1/workspaces/w1/notebooks"),
        ("/v1/workspaces/w1/notebooks?x=1", "/v1/workspaces/w1/notebooks?x=1"),
        ("v1/workspaces", "/v1/workspaces"),
        ("https://api.fabric.microsoft.com/v1/workspaces", "/v1/workspaces"),
        ("https://API.FABRIC.microsoft.com:443/v1/workspaces", "/v1/workspaces"),
        ("/workspaces?next=https://evil.example/", "/v1/workspaces?next=https://evil.example/"),
        ("/v10/workspaces", "/v1/v10/workspaces"),
    ],
)
def test_urls_on_the_host_and_paths_mean_the_same_place(url, path):
    assert locate(OPTIONS, url).url == f"https://api.fabric.microsoft.com{path}"


@pytest.mark.parametrize("url", ["/workspaces/w1", "workspaces/w1", "/v1/workspaces/w1", "/fabric/v1/workspaces/w1"])
def test_a_base_url_with_a_longer_path_is_prefixed_once(url):
    assert locate(LOCAL, url).url == "http://127.0.0.1:8323/fabric/v1/workspaces/w1"


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/v1/workspaces",
        "http://api.fabric.microsoft.com/v1/workspaces",
        "https://api.fabric.microsoft.com:8443/v1/workspaces",
        "https://api.fabric.microsoft.com@evil.example/v1",
        "https://user:secret@api.fabric.microsoft.com/v1/workspaces",
        "//evil.example/v1/workspaces",
        "/\\evil.example/v1",
        "\\\\evil.example/v1",
        "https:\\\\evil.example/v1",
        "/workspaces/../../x",
        "/workspaces/%2e%2e/x",
        "/workspaces/w 1",
        "/workspaces\r\nX-Evil: 1",
        "/workspaces#x",
        "/workspaces/ä",
        "wss://api.fabric.microsoft.com/v1",
    ],
)
def test_every_other_place_is_refused_naming_the_field(url):
    for parse, extra in ((parse_submit, {}), (parse_adopt, {"status": 202})):
        with pytest.raises(UsageError, match=r"(submit|adopt)\.url: ") as caught:
            parse({"method": "POST", "url": url, **extra}, OPTIONS)
        assert "secret" not in str(caught.value)


@given(st.text(max_size=60))
def test_whatever_the_url_the_place_is_on_the_host(text):
    for url in (text, f"https://{text}", f"//{text}", f"https://api.fabric.microsoft.com{text}"):
        try:
            place = locate(OPTIONS, url)
        except UsageError:
            continue
        for parsed in (httpx.URL(place.url),):
            assert (parsed.scheme, parsed.host, parsed.port) == ("https", "api.fabric.microsoft.com", None)


@pytest.mark.parametrize(
    ("location", "path"),
    [
        (f"https://wabi.analysis.windows.net{STATE_PATH}", STATE_PATH),
        (f"https://api.fabric.microsoft.com/operations/{OPERATION_ID}", STATE_PATH),
        ("/v1/workspaces/w/items/i/jobs/instances/j", "/v1/workspaces/w/items/i/jobs/instances/j"),
        ("http://169.254.169.254/v1/x?y=1", "/v1/x?y=1"),
        ("https://evil.example", None),
        ("https://evil.example/?x=1", None),
        ("https://user@evil.example/v1/x", None),
        ("//evil.example/v1/x", None),
        ("https://evil.example/../x", None),
        ("operations/x", None),
        ("", None),
    ],
)
def test_a_location_gives_a_path_and_never_a_host(location, path):
    assert path_of_location(OPTIONS, location) == path


@pytest.mark.parametrize("text", ["", "x", "..", f"{OPERATION_ID}x", f"{OPERATION_ID}/../../x", "1ef1722c1a2640299b07"])
def test_an_operation_id_is_a_uuid_and_nothing_else(text):
    assert operation_id(text) is None
    assert operation_id(f"/v1/operations/{text}") is None
    assert operation_id(OPERATION_ID) == operation_id(f"{STATE_PATH}/result") == OPERATION_ID


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"method": None}, "submit.method"),
        ({"method": "CONNECT"}, "submit.method"),
        ({"method": "POST\r\n"}, "submit.method"),
        ({"url": None}, "submit.url"),
        ({"url": ""}, "submit.url"),
        ({"headers": []}, "submit.headers"),
        ({"headers": {"Authorization": "Bearer x"}}, "submit.headers.Authorization"),
        ({"headers": {"HOST": "evil.example"}}, "submit.headers.HOST"),
        ({"headers": {"content-length": "5"}}, "submit.headers.content-length"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "submit.headers.Transfer-Encoding"),
        ({"headers": {"Cookie": "a=1"}}, "submit.headers.Cookie"),
        ({"headers": {"X-A": "1\r\nHost: evil"}}, "submit.headers.X-A"),
        ({"headers": {"X-A": None}}, "submit.headers.X-A"),
        ({"headers": {"X-A": True}}, "submit.headers.X-A"),
        ({"headers": {"X-A": 10**5000}}, "submit.headers.X-A"),
        ({"headers": {"X A": "1"}}, "submit.headers.X A"),
        ({"headers": {"": "1"}}, "submit.headers."),
        ({"headers": {f"X-{n}": "1" for n in range(101)}}, "submit.headers"),
        ({"body": float("nan")}, "submit.body"),
        ({"body": object()}, "submit.body"),
        ({"bdy": {}}, "submit.bdy"),
    ],
)
def test_a_submission_that_cannot_be_sent_is_refused_naming_the_field(fields, named):
    with pytest.raises(UsageError) as caught:
        submit(**fields)
    assert str(caught.value).startswith(f"{named}: ")


@pytest.mark.parametrize("status", [None, "202", True, 0, 99, 600, 202.0])
def test_an_adopted_answer_needs_its_status(status):
    with pytest.raises(UsageError, match=r"^adopt\.status: "):
        adopt(status=status)


@pytest.mark.parametrize("document", [None, [], "x", 5])
def test_what_is_no_object_is_refused(document):
    with pytest.raises(UsageError, match=r"^submit: "):
        parse_submit(document, OPTIONS)
    with pytest.raises(UsageError, match=r"^adopt: "):
        parse_adopt(document, OPTIONS)


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (None, None),
        ({"displayName": "nächtlich"}, b'{"displayName":"n\\u00e4chtlich"}'),
        ([1, 2], b"[1,2]"),
        ("text", b'"text"'),
        (False, b"false"),
        (0, b"0"),
        ("\ud800", b'"\\ud800"'),
    ],
)
def test_a_body_is_any_json_or_none(body, sent):
    assert content_of(submit(body=body)) == sent


def test_a_method_is_read_in_any_case():
    assert submit(method="post").method == "POST"


@pytest.mark.parametrize(
    ("content_type", "body", "content"),
    [
        ("application/json", None, b""),
        ("application/json", {"a": 1}, b'{"a":1}'),
        ("application/json; charset=utf-8", '{"a":  1}', b'{"a":  1}'),
        ("application/json", "no json text", b'"no json text"'),
        ("text/plain", "text", b"text"),
        ("text/plain", "\ud800", b"?"),
    ],
)
def test_an_adopted_body_is_kept_as_it_came(content_type, body, content):
    assert answer_of(adopt(headers={"Content-Type": content_type}, body=body)).body == content


def test_an_adopted_header_may_hold_anything():
    answer = answer_of(adopt(headers={"X-Odd": "ä\ud800", "Retry-After": 20}))
    assert answer.header("retry-after") == "20"


def test_what_is_asked_shows_no_query_in_its_repr():
    request = submit(url="/x?sig=secret", headers={"X-Key": "secret"}, body={"password": "secret"})
    assert "secret" not in repr(request)
    adopted = adopt(url="/x?sig=secret", headers={"Location": "https://h/?sig=secret"})
    assert "secret" not in repr(adopted)


def test_preparing_a_submission_leaves_the_first_answer_to_come():
    prepared = Rig().target.prepare("submit", {"method": "POST", "url": "/x"})
    assert (prepared.first, prepared.retry_safe) == (None, False)


@pytest.mark.parametrize(
    ("method", "safe"), [("GET", True), ("PUT", True), ("DELETE", True), ("PATCH", False), ("POST", False)]
)
def test_a_first_request_may_be_sent_twice_where_that_changes_nothing(method, safe):
    assert Rig().target.prepare("submit", {"method": method, "url": "/x"}).retry_safe is safe


def test_preparing_an_adoption_reads_the_first_answer():
    rig = Rig()
    document = {"method": "POST", "url": "/x", "status": 202, "headers": ACCEPTED, "body": None}
    assert isinstance(rig.target.prepare("adopt", document).first, StillRunning)
    assert isinstance(rig.target.prepare("adopt", {**document, "status": 429}).first, Ended)
    assert rig.requests == []


@pytest.mark.parametrize("body", [{"id": 1}, [1], 5, True])
def test_a_body_handed_over_as_json_is_json_though_no_header_says_so(body):
    assert answer_of(adopt(status=200, body=body)).header("content-type") == "application/json"


def test_text_handed_over_stays_what_its_header_says():
    assert answer_of(adopt(status=200, body="x")).header("content-type") is None
    plain = adopt(status=200, body={"a": 1}, headers={"content-type": "text/plain"})
    assert answer_of(plain).header("content-type") == "text/plain"
