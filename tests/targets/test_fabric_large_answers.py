"""Large answers: results go into files, error documents stay whole."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import httpx
import pytest

from renewer.core.model import NO_RESULT, Ended, Succeeded
from renewer.errors import TransientError
from renewer.targets.fabric import FabricTarget, Ticket
from renewer.targets.spool import Spool
from tests.targets.fabric_rig import (
    RESULT_PATH,
    STATE_PATH,
    CountedTokens,
    FixedClock,
    Rig,
    fabric_options,
    reply,
)

pytestmark = pytest.mark.anyio

LARGE = "x" * 400_000
TICKET = Ticket(STATE_PATH, RESULT_PATH)
JSON = {"Content-Type": "application/json"}


class Spooling(Rig):
    """A rig whose target puts large results into files."""

    def __init__(self, directory: Path, **fields: int) -> None:
        super().__init__(options=fabric_options(**fields))
        client = httpx.AsyncClient(transport=httpx.MockTransport(self._answer))
        self.target = FabricTarget(self.options, CountedTokens(), FixedClock(), client, spool=Spool(directory))


def files_in(directory: Path) -> list[str]:
    return [str(file) for file in directory.iterdir()]


async def test_a_large_result_is_in_a_file_byte_for_byte(tmp_path: Path) -> None:
    rig = Spooling(tmp_path).answers(reply(200, {"definition": LARGE}, JSON))
    result = await rig.fetch(TICKET)
    assert (result.kind, result.body) == ("json", b"")
    assert result.file is not None
    assert json.loads(await anyio.Path(result.file).read_bytes()) == {"definition": LARGE}


async def test_a_large_first_answer_that_is_the_result_is_in_a_file(tmp_path: Path) -> None:
    rig = Spooling(tmp_path).answers(reply(201, {"definition": LARGE}, JSON))
    answer = await rig.submit()
    assert isinstance(answer, Succeeded)
    assert answer.result is not None
    assert [answer.result.file] == files_in(tmp_path)


async def test_a_large_error_document_is_kept_whole_and_in_no_file(tmp_path: Path) -> None:
    document = {"errorCode": "Refused", "message": LARGE, "moreDetails": [{"errorCode": "X"}]}
    rig = Spooling(tmp_path).answers(
        reply(403, document), reply(400, {"errorCode": "OperationHasNoResult", "x": LARGE})
    )
    assert await rig.submit() == Ended("rejected", error={**document, "httpStatus": 403})
    assert await rig.fetch(TICKET) == NO_RESULT
    assert files_in(tmp_path) == []


async def test_a_large_state_is_read_and_in_no_file(tmp_path: Path) -> None:
    rig = Spooling(tmp_path)
    for ask in (lambda: rig.poll(TICKET), lambda: rig.submit(STATE_PATH, "GET")):
        rig.answers(reply(200, {"status": "Failed", "error": {"errorCode": "E", "message": LARGE}}))
        answer = await ask()
        assert answer == Ended("failed", "Failed", {"errorCode": "E", "message": LARGE})
    assert files_in(tmp_path) == []


async def test_what_is_given_up_or_garbage_leaves_no_file(tmp_path: Path) -> None:
    rig = Spooling(tmp_path, max_result_bytes=300_000)
    rig.answers(
        reply(200, {"definition": LARGE}, JSON),
        httpx.Response(200, headers=JSON, content=b'{"definition": "' + b"x" * 280_000),
        httpx.Response(200, content=b"x" * 2_000_000),
    )
    too_large = await rig.fetch(TICKET)
    assert too_large.problem is not None
    assert too_large.problem_code == "result_too_large"
    with pytest.raises(TransientError, match="no whole JSON"):
        await rig.fetch(TICKET)
    done = await rig.submit()
    assert isinstance(done, Succeeded)
    assert done.result == too_large
    assert files_in(tmp_path) == []
