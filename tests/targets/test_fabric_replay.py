"""Recorded operations end as recorded: those in this folder, or those that RENEWER_FABRIC_SAMPLES names."""

import json
import os
from pathlib import Path

import httpx
import pytest

from renewer.core.model import NO_RESULT
from renewer.core.states import OperationState
from tests.targets.fabric_replay import follow

pytestmark = pytest.mark.anyio

SAMPLES = Path(os.environ.get("RENEWER_FABRIC_SAMPLES") or Path(__file__).with_name("fabric_recordings.json"))
RECORDINGS = json.loads(SAMPLES.read_text("utf-8"))


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


def check(operation, recording):
    last = json.loads(recording["polls"][-1]["body"])
    assert operation.status == last["status"]
    if last["status"] == "Failed":
        assert operation.state is OperationState.FAILED
        assert operation.error == last["error"]
        assert operation.result is None
        return
    assert operation.state is OperationState.SUCCEEDED
    assert operation.error is None
    recorded = recording["result"]
    if recorded is None or recorded["status"] != 200:
        assert operation.result == NO_RESULT
    else:
        assert operation.result.kind == "json"
        assert operation.result.body == recorded["body"].encode()
        assert operation.result.content_type == recorded["headers"]["Content-Type"]


@pytest.mark.parametrize("adopted", [False, True], ids=["submitted", "adopted"])
@pytest.mark.parametrize("recording", RECORDINGS, ids=range(len(RECORDINGS)))
async def test_a_recorded_operation_ends_as_recorded_and_is_never_asked_early(recording, adopted):
    operation, service = await follow(recording, adopted=adopted)
    check(operation, recording)
    assert service.hasty == []
    assert service.hosts == {httpx.URL(recording["request"]["url"]).host}
    assert operation.polls == len(recording["polls"])
    assert operation.poll_errors == 0


@pytest.mark.parametrize("every", [2, 3, 5])
@pytest.mark.parametrize("recording", RECORDINGS, ids=range(len(RECORDINGS)))
async def test_it_ends_the_same_when_some_answers_are_429(recording, every):
    operation, service = await follow(recording, throttle_every=every)
    check(operation, recording)
    assert service.hasty == []
    assert operation.poll_errors == len(service.exchanges) // every
