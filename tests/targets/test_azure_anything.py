"""Whatever a service answers: nothing is raised but transient errors, and success takes a word or code for it."""

import json

import anyio
import httpx
from hypothesis import given
from hypothesis import strategies as st

from renewer.core.model import Ended, StillRunning, Succeeded
from renewer.errors import TransientError
from renewer.ports import FollowTerms
from tests.targets.azure_rig import HOST, MONITOR, AzureRig, ticket

words = st.sampled_from(
    [
        "Succeeded",
        "succeeded",
        "Failed",
        "Canceled",
        "Running",
        "InProgress",
        "Creating",
        "Odd",
        "",
        None,
        5,
        ["Failed"],
    ]
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
names = ["status", "error", "result", "resourceLocation", "provisioningState", "percentComplete", "startTime", "code"]
errors = st.dictionaries(st.sampled_from(["code", "message", "details"]), anything)
resources = st.dictionaries(st.sampled_from(["provisioningState", "error"]), words | errors)
states = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(names, anything),
        "status": words | anything,
        "provisioningState": words,
        "properties": resources | anything,
        "error": errors | anything,
        "resourceLocation": st.sampled_from(["/r", "https://evil.example.net/", "\ud800", ":", "//"]) | anything,
    },
)
whole = (states | anything).map(lambda value: json.dumps(value).encode())
bodies = whole | st.tuples(whole, st.integers(0, 40)).map(lambda cut: cut[0][: cut[1]]) | st.binary(max_size=80)
codes = st.sampled_from([200, 201, 202, 204]) | st.integers(200, 599)
references = st.sampled_from([MONITOR, "/x", "x y", "https://evil.example.net/", "http://a@b/", "\\\\", "%", "[", "//"])
headers = st.fixed_dictionaries(
    {},
    optional={
        "Location": references,
        "Operation-Location": references,
        "Azure-AsyncOperation": references,
        "Retry-After": st.sampled_from(["1", "0", "-1", "soon", "1e400", "9" * 400]),
        "Content-Type": st.sampled_from(["application/json", "text/plain", "image/png", "application/json; charset=x"]),
        "Set-Cookie": st.sampled_from(["a=b", "a=b; Path=/; Max-Age=-1", ";;;"]),
        "x-ms-request-id": st.sampled_from(["r-1"]),
    },
)
answers = st.builds(
    lambda code, body, fields: httpx.Response(code, headers=fields, content=body), codes, bodies, headers
)
methods = st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE"])
terms = st.builds(
    FollowTerms,
    protocol=st.sampled_from(["auto", "operation-location", "azure-async-operation", "location", "body"]),
    final_state_via=st.sampled_from([None, "operation-location", "azure-async-operation", "location", "original-uri"]),
)
protocols = st.sampled_from(["operation-location", "azure-async-operation", "location", "body"])


def document(response):
    try:
        read = json.loads(response.content)
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}


def is_object(response):
    return response.content.lstrip()[:1] == b"{"


def says_succeeded(word):
    return isinstance(word, str) and word.lower() == "succeeded"


def state_of(response):
    properties = document(response).get("properties")
    inner = properties.get("provisioningState") if isinstance(properties, dict) else None
    return inner or document(response).get("provisioningState") or None


def read(rig, ask):
    """What the target makes of it; None for a transient error. Every other error is let through."""

    async def attempt():
        try:
            return await ask()
        except TransientError:
            return None

    read = anyio.run(attempt)
    for url in rig.urls:
        assert url.startswith(HOST)
    if read is not None:
        json.dumps(rig.target.dump_ticket(getattr(read, "ticket", None)))
    if isinstance(read, Ended):
        json.dumps(read.error)
        assert isinstance(read.error["errorCode"], str)
        assert isinstance(read.error["message"], str)
    return read


# Each answer is scripted twice, for after a 401 the same is asked once more.


@given(method=methods, first=answers, how=terms)
def test_any_first_answer_is_read(method, first, how):
    rig = AzureRig().answers(first, first)
    said = read(rig, lambda: rig.submit(method, terms=how))
    if isinstance(said, Succeeded):
        assert 200 <= first.status_code < 300
        assert first.status_code != 202 or says_succeeded(document(first).get("status")) or method == "GET"
        if method in ("PUT", "PATCH") and state_of(first) is not None and first.status_code != 204:
            assert says_succeeded(state_of(first))
    elif isinstance(said, StillRunning):
        assert said.ticket is not None


@given(method=methods, protocol=protocols, told=answers)
def test_any_answer_to_a_poll_is_read(method, protocol, told):
    rig = AzureRig().answers(told, told)
    asked = ticket(protocol, method, location=f"{HOST}/l")
    said = read(rig, lambda: rig.poll(asked))
    if not isinstance(said, Succeeded):
        assert said is None or 200 <= told.status_code < 300
        return
    if protocol in ("operation-location", "azure-async-operation"):
        assert says_succeeded(document(told).get("status"))
    elif protocol == "location":
        assert 200 <= told.status_code < 300
        assert told.status_code != 202
    elif told.status_code in (404, 410):
        assert method == "DELETE"
    else:
        assert told.status_code == 204 or (is_object(told) and state_of(told) is None) or says_succeeded(state_of(told))


@given(method=methods, told=answers)
def test_any_answer_for_a_result_is_read(method, told):
    rig = AzureRig().answers(told, told)
    result = None

    async def ask():
        nonlocal result
        result = await rig.fetch(ticket(method=method, result=f"{HOST}/r"))
        return StillRunning()

    read(rig, ask)
    if result is not None:
        assert told.status_code in (404, 410) or (200 <= told.status_code < 300 and told.status_code != 202)
