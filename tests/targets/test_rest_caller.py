from __future__ import annotations

import httpx
import pytest

from renewer.daemon.clock import SystemClock
from renewer.errors import TransientError, UsageError
from renewer.targets.rest import AccountOptions, Caller
from renewer.targets.rest.places import locate

pytestmark = pytest.mark.anyio

OPTIONS = AccountOptions("azure.main", "https://own.example")
PLACE = locate(OPTIONS, "/things/1")


class Tokens:
    """Gives these tokens one after the other; None stands for none to be had."""

    def __init__(self, *tokens: str | None) -> None:
        self._tokens = iter(tokens)

    async def token(self, *, fresh: bool = False) -> str:
        token = next(self._tokens)
        if token is None:
            raise TransientError("no token; log in", kind="unauthorized")
        return token


class Service(httpx.MockTransport):
    """Answers with these status codes, and keeps the tokens that it saw."""

    def __init__(self, *statuses: int) -> None:
        self.seen: list[str] = []
        answers = iter(statuses)

        def answer(request: httpx.Request) -> httpx.Response:
            self.seen.append(request.headers["authorization"])
            return httpx.Response(next(answers), json={})

        super().__init__(answer)


async def test_without_a_token_nothing_is_sent_and_the_error_says_so() -> None:
    service = Service()
    caller = Caller(OPTIONS, Tokens(None), SystemClock(), client=service)
    with pytest.raises(TransientError, match="no token; log in") as caught:
        await caller.ask("POST", PLACE, max_body=1000)
    assert (caught.value.kind, service.seen) == ("no_token", [])
    assert caller.token_failures == 1


async def test_a_refusal_that_no_other_token_can_answer_stays_a_refusal() -> None:
    service = Service(401)
    caller = Caller(OPTIONS, Tokens("a", None), SystemClock(), client=service)
    with pytest.raises(TransientError) as caught:
        await caller.ask("POST", PLACE, max_body=1000)
    assert (caught.value.kind, service.seen) == ("unauthorized", ["Bearer a"])
    assert caller.token_failures == 1


async def test_a_request_for_which_both_tokens_are_refused_counts_as_one_failure() -> None:
    caller = Caller(OPTIONS, Tokens("a", "b"), SystemClock(), client=Service(401, 401))
    with pytest.raises(TransientError, match="the token was refused"):
        await caller.ask("GET", PLACE, max_body=1000)
    assert caller.token_failures == 1


async def test_a_transport_alone_is_enough_to_send_with() -> None:
    service = Service(401, 200)
    caller = Caller(OPTIONS, Tokens("a", "b"), SystemClock(), client=service)
    assert (await caller.ask("GET", PLACE, max_body=1000)).status == 200
    assert service.seen == ["Bearer a", "Bearer b"]
    assert caller.token_failures == 0


async def test_what_cannot_be_sent_is_not() -> None:
    service = Service()
    asked = [
        ("GET", {"X-One": "secret\r\nX: y"}, "headers.X-One"),
        ("GE T", {}, "method"),
        ("GE T", {"A": "b"}, "method"),
    ]
    for method, headers, key in asked:
        caller = Caller(OPTIONS, Tokens("a"), SystemClock(), client=service)
        with pytest.raises(UsageError, match=key) as caught:
            await caller.ask(method, PLACE, headers=headers, max_body=1000)
        assert "secret" not in str(caught.value)
    assert service.seen == []
