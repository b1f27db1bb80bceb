"""What the doctor says of a Fabric account."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest

from renewer.cli.doctor.findings import Verdict
from renewer.emulator import Fault, FaultAction
from tests.cli.doctor_rig import findings_of, servers, settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def jwt(**claims: Any) -> str:
    middle = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"eyJhbGciOiJub25lIn0.{middle}.c2ln"


async def test_an_account_that_is_well_is_found_well(tmp_path: Path) -> None:
    async with servers() as rig:
        found = await findings_of(settings(tmp_path, rig.fabric_settings()), "fabric.main")
    assert list(found) == ["token", "reach", "permission", "clock"]
    assert {finding.verdict for finding in found.values()} == {Verdict.OK}


async def test_a_token_that_is_refused_is_told_from_one_without_permission(tmp_path: Path) -> None:
    async with servers() as rig:
        refused = await findings_of(settings(tmp_path, rig.fabric_settings(token="another")), "fabric.main")
        rig.faults.add(Fault(on="fabric.poll", action=FaultAction.STATUS, status=403))
        forbidden = await findings_of(settings(tmp_path, rig.fabric_settings()), "fabric.main")
    assert refused["permission"].verdict is Verdict.FAIL
    assert "401" in refused["permission"].seen
    assert "403" in forbidden["permission"].seen
    assert refused["permission"].remedy != forbidden["permission"].remedy


@pytest.mark.parametrize(("status", "verdict"), [(429, Verdict.WARN), (503, Verdict.WARN), (302, Verdict.FAIL)])
async def test_other_answers_are_told_as_what_they_are(tmp_path: Path, status: int, verdict: Verdict) -> None:
    async with servers() as rig:
        rig.faults.add(Fault(on="fabric.poll", action=FaultAction.STATUS, status=status))
        found = await findings_of(settings(tmp_path, rig.fabric_settings()), "fabric.main")
    assert found["permission"].verdict is verdict
    assert str(status) in found["permission"].seen


@pytest.mark.parametrize(("offset_s", "word"), [(-90.0, "ahead of"), (90.0, "behind")])
async def test_a_clock_that_is_off_is_a_warning(tmp_path: Path, offset_s: float, word: str) -> None:
    async with servers() as rig:
        rig.faults.clock_offset_s = offset_s
        found = await findings_of(settings(tmp_path, rig.fabric_settings()), "fabric.main")
    assert found["clock"].verdict is Verdict.WARN
    assert word in found["clock"].seen
    assert any(span in found["clock"].seen for span in ("89", "90", "91"))


async def test_a_host_that_cannot_be_reached_is_said(tmp_path: Path) -> None:
    async with servers() as rig:
        wanted = settings(tmp_path, rig.fabric_settings())
    found = await findings_of(wanted, "fabric.main")
    assert list(found) == ["token", "reach"]
    assert found["reach"].verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("token", "verdict", "words"),
    [
        (jwt(exp=time.time() - 7300, aud="https://api.fabric.microsoft.com"), Verdict.FAIL, "2h"),
        (jwt(exp=time.time() + 86_400 * 3.5, aud="https://api.fabric.microsoft.com"), Verdict.WARN, "3d"),
        (jwt(aud=["odd"]), Verdict.OK, "does not say when it ends"),
        ("a.b.c", Verdict.OK, "not a JWT"),
    ],
    # Not by the tokens: some have the time in them, and each process of a run has to come to the same names.
    ids=["ended", "ends soon", "no end", "no JWT"],
)
async def test_what_a_token_says_of_itself_is_told_and_the_token_is_not(
    tmp_path: Path, token: str, verdict: Verdict, words: str
) -> None:
    async with servers() as rig:
        found = await findings_of(settings(tmp_path, rig.fabric_settings(token=token)), "fabric.main")
    assert found["token"].verdict is verdict
    assert words in found["token"].seen
    assert not any(token in repr(finding) for finding in found.values())


async def test_a_token_file_that_is_good_until_later_needs_no_remedy(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(jwt(exp=time.time() + 3000, aud="x"))
    async with servers() as rig:
        changes = rig.fabric_settings(token_file=str(file))
        del changes["fabric"]["main"]["token"]
        wanted = settings(tmp_path, changes)
        assert (await findings_of(wanted, "fabric.main"))["token"].verdict is Verdict.OK
        file.unlink()
        found = await findings_of(wanted, "fabric.main")
    assert found["token"].verdict is Verdict.FAIL
    assert str(file) in found["token"].seen
    assert found["reach"].verdict is Verdict.OK
    assert found["permission"].verdict is Verdict.WARN
