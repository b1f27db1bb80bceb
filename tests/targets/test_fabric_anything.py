"""Whatever a service answers: nothing but what the ports know comes out, and nothing succeeds without a word for it."""

from __future__ import annotations

import json

import anyio
import httpx
from hypothesis import given
from hypothesis import strategies as st

from renewer.core.model import Ended, StillRunning, Succeeded
from renewer.errors import TransientError
from renewer.targets.fabric import Ticket
from tests.targets.fabric_rig import JOB_PATH, RESULT_PATH, STATE_PATH, Rig, adopt

WORDS = st.sampled_from(
    ["Undefined", "NotStarted", "Running", "InProgress", "Succeeded", "Completed", "Failed", "Cancelled", "Deduped"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
STATES = st.dictionaries(
    st.sampled_from(
        [
            "status",
            "error",
            "failureReason",
            "percentComplete",
            "createdTimeUtc",
            "startTimeUtc",
            "errorCode",
            "message",
        ]
    ),
    VALUES,
)
BODIES = st.binary(max_size=60) | (VALUES | STATES).map(lambda value: json.dumps(value).encode())
HEADERS = st.dictionaries(
    st.sampled_from(
        ["Location", "Retry-After", "Content-Type", "x-ms-operation-id", "Set-Cookie", "Date", "RequestId"]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
    | st.sampled_from(["application/json", STATE_PATH, f"https://evil.example{STATE_PATH}", "20", "-1", "1e400"]),
)
STATUSES = st.integers(100, 999) | st.sampled_from([200, 201, 202, 204, 400, 401, 404, 429, 500])
ANSWERS = st.builds(
    lambda status, headers, body: httpx.Response(status, headers=headers, content=body), STATUSES, HEADERS, BODIES
)
TICKETS = st.sampled_from([Ticket(STATE_PATH, RESULT_PATH), Ticket(JOB_PATH), Ticket("/v1/identities/x")])


def read(answer: httpx.Response, ticket: Ticket | None) -> object:
    """What the target makes of an answer, to a poll or to a first request; None if it makes nothing of it."""
    rig = Rig().answers(*[answer] * 2)

    async def ask() -> object:
        try:
            return await (rig.submit() if ticket is None else rig.poll(ticket))
        except TransientError:
            return None

    return anyio.run(ask)


@given(ANSWERS, TICKETS)
def test_a_poll_ends_an_operation_only_by_a_word_for_it(answer: httpx.Response, ticket: Ticket) -> None:
    told = read(answer, ticket)
    match told:
        case None | StillRunning():
            return
        case Succeeded(status):
            assert answer.status_code in (200, 201, 204)
            assert status is None or status.lower() in {"succeeded", "completed"}
            if status is None and ticket.path != "/v1/identities/x":
                assert isinstance(answer.json(), dict)
        case Ended(outcome, status):
            assert answer.status_code in (200, 201)
            assert (outcome, (status or "").lower()) in {
                ("failed", "failed"),
                ("canceled", "cancelled"),
                ("canceled", "deduped"),
            }
        case _:
            raise AssertionError(told)


@given(ANSWERS)
def test_a_first_answer_is_read_or_repeated(answer: httpx.Response) -> None:
    told = read(answer, None)
    match told:
        case None:
            assert answer.status_code in (401, 408, 429) or not 200 <= answer.status_code < 500
        case StillRunning(ticket=ticket):
            assert answer.status_code == 202
            assert isinstance(ticket, Ticket)
        case Succeeded():
            assert 200 <= answer.status_code < 300
        case Ended(outcome, _, error):
            assert outcome == ("unpollable" if answer.status_code == 202 else "rejected")
            assert error is not None
            assert {"errorCode", "message"} <= set(error)
        case _:
            raise AssertionError(told)


@given(
    STATUSES.filter(lambda status: status < 600),
    HEADERS,
    VALUES | STATES | st.binary().map(lambda raw: raw.decode("latin-1")),
)
def test_an_adopted_answer_is_read_whatever_it_is(status: int, headers: dict[str, str], body: object) -> None:
    for method, url in (("POST", "/workspaces/w1/notebooks"), ("GET", STATE_PATH)):
        told = adopt(headers, status=status, body=json.loads(json.dumps(body, allow_nan=True)), method=method, url=url)
        assert isinstance(told, StillRunning | Succeeded | Ended)
