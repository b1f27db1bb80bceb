"""Documents that are too large to be read whole: what they say of the operation, and the results in them."""

import json
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from renewer.core.model import Ended, StillRunning, Succeeded
from renewer.errors import TransientError
from renewer.targets.azure.members import member_of, outline, spans
from renewer.targets.azure.replies import OUTLINED
from renewer.targets.http import STATE_BODY_MAX
from renewer.targets.spool import Spool
from tests.targets.azure_rig import PRODUCT, AzureRig, answer, azure_options, located, monitored, ticket

PAGES = [{"n": number, "text": 'a "quoted" {brace} \\ text' * 10} for number in range(2000)]
JSON = {"Content-Type": "application/json"}

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@pytest.fixture
def rig(tmp_path):
    return AzureRig(spool=Spool(tmp_path))


def large(**fields):
    body = json.dumps(fields).encode()
    assert len(body) > 256 * 1024
    return httpx.Response(200, headers=JSON, content=body)


def content_of(result):
    return Path(result.file).read_bytes() if result.file else result.body


@pytest.mark.anyio
@pytest.mark.parametrize(("status", "kind"), [("running", StillRunning), ("Succeeded", Succeeded), ("Failed", Ended)])
async def test_a_large_monitor_is_understood(status, kind, rig, tmp_path):
    rig.answers(large(analyzeResult=PAGES, percentComplete=7, error={"code": "X"}, status=status))
    said = await rig.poll(ticket("operation-location", "POST"))
    assert isinstance(said, kind)
    assert said.status == status
    if isinstance(said, StillRunning):
        assert said.percent_complete == 7.0
    if isinstance(said, Ended):
        assert said.error == {"errorCode": "X", "message": "the service gave no reason", "error": {"code": "X"}}
    assert len(list(tmp_path.iterdir())) == (1 if kind is Succeeded else 0)


@pytest.mark.anyio
@pytest.mark.parametrize("below", ["error", "properties"])
async def test_a_large_error_is_kept_whole(below, rig):
    reason = {"code": "X", "message": "why", "details": PAGES}
    rig.answers(large(status="Failed", **{below: reason if below == "error" else {"error": reason}}))
    said = await rig.poll(ticket("operation-location", "POST"))
    assert said.error == {"errorCode": "X", "message": "why", "error": reason}


@pytest.mark.anyio
async def test_of_an_error_that_is_too_large_it_is_not_said_that_there_was_none(rig):
    rig.answers(large(status="Failed", error={"code": "X", "details": "x" * STATE_BODY_MAX}))
    said = await rig.poll(ticket("operation-location", "POST"))
    assert said.error == {
        "errorCode": "Failed",
        "message": "the service gave no reason, or one that is too large to be kept",
    }


@pytest.mark.anyio
async def test_a_large_monitor_that_is_the_result_is_passed_on_as_a_file(rig):
    body = json.dumps({"status": "succeeded", "analyzeResult": PAGES}, indent=1).encode()
    rig.answers(httpx.Response(200, headers=JSON, content=body))
    result = (await rig.poll(ticket("operation-location", "POST"))).result
    assert (result.kind, result.content_type, result.size) == ("json", "application/json", len(body))
    assert content_of(result) == body


@pytest.mark.anyio
@pytest.mark.parametrize("pages", [PAGES, PAGES[:1]])
async def test_the_result_in_a_large_monitor_is_cut_out_byte_for_byte(pages, rig, tmp_path):
    text = json.dumps(pages, indent=3)
    body = f'{{"result" :\n {text} , "padding": "{"x" * 300_000}", "status":"Succeeded"}}'.encode()
    rig.answers(httpx.Response(200, headers=JSON, content=body))
    result = (await rig.poll(ticket("azure-async-operation", "POST"))).result
    assert content_of(result) == text.encode()
    assert len(list(tmp_path.iterdir())) == (1 if result.file else 0)


@pytest.mark.anyio
async def test_a_null_result_in_a_large_monitor_is_none(rig):
    rig.answers(large(result=None, analyzeResult=PAGES, status="Succeeded"))
    result = (await rig.poll(ticket("azure-async-operation", "POST"))).result
    assert json.loads(content_of(result))["analyzeResult"] == PAGES


@pytest.mark.anyio
@pytest.mark.parametrize(
    "damage",
    [lambda body: body[:-1], lambda body: body + b"}", lambda body: b"[" + body + b"]", lambda body: body[:-30]],
)
async def test_a_large_monitor_that_is_not_whole_says_nothing(damage, rig, tmp_path):
    body = json.dumps({"status": "Succeeded", "pages": PAGES}).encode()
    rig.answers(httpx.Response(200, headers=JSON, content=damage(body)))
    with pytest.raises(TransientError) as caught:
        await rig.poll(ticket("operation-location", "POST"))
    assert caught.value.kind == "garbage"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.anyio
async def test_the_state_of_a_large_resource_is_found_below_its_properties(rig):
    rig.answers(
        large(properties={"pages": PAGES, "provisioningState": "Creating"}, id="1"),
        large(properties={"pages": PAGES, "provisioningState": "Failed", "error": {"code": "X"}}, id="1"),
        large(properties={"pages": PAGES, "provisioningState": "Succeeded"}, id="1"),
        large(properties=[PAGES], id="1"),
    )
    running = await rig.submit("PUT")
    assert (running.status, running.ticket.protocol) == ("Creating", "body")
    assert (await rig.poll(running.ticket)).error["errorCode"] == "X"
    assert (await rig.poll(running.ticket)).status == "Succeeded"
    assert json.loads(content_of((await rig.poll(running.ticket)).result))["id"] == "1"


@pytest.mark.anyio
async def test_a_large_result_at_location_goes_to_a_file(rig):
    rig.answers(large(pages=PAGES))
    result = (await rig.poll(ticket("location", "POST"))).result
    assert json.loads(content_of(result)) == {"pages": PAGES}


@pytest.mark.anyio
async def test_a_large_first_answer_may_be_the_result(rig):
    rig.answers(large(pages=PAGES))
    assert (await rig.submit("POST")).result.file is not None


@pytest.mark.anyio
@pytest.mark.parametrize("spooled", [True, False])
async def test_a_result_over_the_limit_makes_no_failure_of_a_success(spooled, tmp_path):
    spool = Spool(tmp_path) if spooled else None
    rig = AzureRig(azure_options(max_result_bytes=100), spool=spool)
    little, much = b'"%s"' % (b"x" * 200), b'"%s"' % (b"x" * (STATE_BODY_MAX + 1))
    for body in (little, much):
        for first, polls in ((answer(200, body), []), (located(), [answer(200, body)])):
            followed = await rig.follow("POST", first, *polls)
            assert (followed.outcome, followed.result.kind) == ("succeeded", "none")
            assert followed.result.problem.startswith("it is larger than 100 bytes")
            assert "max_result of [azure.main]" in followed.result.problem
    state = json.dumps({"status": "Succeeded", "x": "y" * 200}).encode()
    followed = await rig.follow("PUT", monitored(), answer(200, state), answer(200, PRODUCT))
    assert followed.left == PRODUCT
    assert list(tmp_path.iterdir()) == []


@pytest.mark.anyio
@pytest.mark.parametrize("spooled", [True, False])
async def test_a_state_over_all_limits_says_nothing(spooled, tmp_path):
    rig = AzureRig(azure_options(max_result_bytes=STATE_BODY_MAX), spool=Spool(tmp_path) if spooled else None)
    rig.answers(large(status="Succeeded", x="y" * STATE_BODY_MAX))
    with pytest.raises(TransientError) as caught:
        await rig.poll(ticket("operation-location", "POST"))
    assert caught.value.condition == "BodyTooLarge"


@given(members=st.dictionaries(st.text(), values), indent=st.sampled_from([None, 0, 3]), plain=st.booleans())
def test_members_are_found_where_a_parser_finds_them(members, indent, plain):
    document = json.dumps(members, indent=indent, ensure_ascii=plain).encode("utf-8", "surrogatepass")
    found = spans(document, members)
    assert {name: json.loads(document[begin:end]) for name, (begin, end) in found.items()} == members


@pytest.mark.parametrize(
    "document", [b'\xef\xbb\xbf {"a":[1]}\n', b'{"\\u0061":[1]}', b'{"a":0,"a":[1]}', b'{"b\\":":{},"a":[1]}']
)
def test_a_member_is_found_however_its_object_is_written(document):
    assert member_of(document, "a") == b"[1]"


@pytest.mark.parametrize(
    "document", [b"", b"{", b'{"a"', b'{"a":[1]', b'{"a":"', b'[{"a":1}]', b'{"a":1}}', b'{"a":1]']
)
def test_what_is_not_whole_has_no_members(document):
    assert member_of(document, "a") is None


LONG = [
    "x" * 300_000,
    "\\" * 300_001,
    '\\"' * 50_000,
    '"' * 100_001,
    "{[:,]}" * 60_000,
    "",
    [0] * 300_000,
    [[]] * 70_000,
]


@pytest.mark.parametrize("number", range(len(LONG)))
@pytest.mark.parametrize("indent", [None, 1])
def test_values_of_any_length_are_passed_over(number, indent):
    members = {"before": LONG[number], "in": {"a": [LONG[number], {"b": LONG[number]}]}, "status": "Running"}
    document = json.dumps({**members, "after": [" " * 9]}, indent=indent).encode()
    found = spans(document, members)
    assert {name: json.loads(document[begin:end]) for name, (begin, end) in found.items()} == members


@given(document=st.binary() | values.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_object_has_no_members(document):
    try:
        is_object = isinstance(json.loads(document), dict)
    except ValueError:
        is_object = False
    if not is_object:
        value = member_of(document, "")
        assert value is None or document.lstrip().startswith(b"{")


@given(members=st.dictionaries(st.sampled_from([*OUTLINED, "properties", "result", "other"]), values))
def test_an_outline_has_the_small_members_that_tell_of_an_operation(members, tmp_path_factory):
    path = tmp_path_factory.mktemp("outline") / "document"
    path.write_text(json.dumps(members))
    found = outline(path, OUTLINED)
    assert found.members == {name: value for name, value in members.items() if name not in ("result", "other")}
    assert (found.result is None) is (members.get("result") is None)
