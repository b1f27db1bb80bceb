"""What the page is told: the most urgent, bounded, and nothing that is a secret."""

from __future__ import annotations

import json

import pytest

from renewer.core.states import LeaseState, OperationState
from renewer.daemon.page.snapshot import LOOKED_AT_ONCE, MOST_PAST, MOST_ROWS, take_snapshot
from renewer.daemon.page.words import MOST_LABELS, label_words, shown, visible
from tests.daemon.page_rig import HOSTILE, SECRETS, StandingClock, Watched, busy

pytestmark = pytest.mark.anyio


async def told(desk: Watched) -> dict:
    return json.loads(await take_snapshot(desk, desk.latest))


def ids(part: dict) -> list[str]:
    return [row["id"] for row in part["rows"]]


async def test_what_is_not_held_stands_by_urgency() -> None:
    desk = Watched()
    desk.hold("waits")
    desk.hold("refused", failures=2)
    desk.hold("parked", is_parked=True)
    desk.hold("risky", -2.0, state=LeaseState.AT_RISK)
    desk.hold("riskier", -3.0, state=LeaseState.AT_RISK)
    desk.hold("was-ours", losses=1)
    now = await told(desk)
    assert [row["session_id"] for row in now["not_held"]["rows"]] == [
        "riskier", "risky", "was-ours", "refused", "waits",
    ]  # fmt: skip
    assert (now["not_held"]["count"], now["held"]["count"]) == (5, 0)


async def test_held_leases_stand_by_what_is_left_of_them() -> None:
    desk = Watched()
    for number, remaining_s in enumerate((20.0, 3.0, 11.0)):
        desk.hold(f"s{number}", remaining_s)
    now = await told(desk)
    assert [row["remaining_s"] for row in now["held"]["rows"]] == [3.0, 11.0, 20.0]


async def test_a_loss_tells_why_and_what_became_of_it() -> None:
    now = await told(busy())
    first = now["lost"]["rows"][0]
    assert (first["session_id"], first["reason"], first["state"]) == ("customer-42", "detached", "acquiring")
    assert first["detail"].startswith("com.microsoft:session-lock-lost")
    assert ids(now["lost"]) == ["lease-2", "lease-6", "lease-11"]


async def test_operations_stand_by_their_next_poll_and_by_their_end() -> None:
    now = await told(busy())
    assert ids(now["followed"]) == ["op-3", "op-2", "op-1"]
    assert ids(now["ended"]) == ["op-4", "op-5", "op-6"]
    # One that waits for its quota was due before now; when there is room is not known.
    assert [(row["limited_by"], row["next_poll_s"] is None) for row in now["followed"]["rows"]] == [
        (None, True),
        ("azure.main reads", True),
        (None, False),
    ]
    assert now["ended"]["rows"][0]["error"].startswith("ItemHasProtectedLabel: see https://x/?***")


async def test_no_secret_is_told() -> None:
    snapshot = (await take_snapshot(busy(), busy().latest)).decode()
    assert [secret for secret in SECRETS if secret in snapshot] == []
    assert "lock_token" not in snapshot


async def test_a_pool_and_a_message_are_told_as_such() -> None:
    rows = {row["id"]: row for row in (await told(busy()))["held"]["rows"]}
    assert (rows["lease-8"]["pool"], rows["lease-8"]["is_free"]) == ("shipments", True)
    assert (rows["lease-7"]["is_message"], rows["lease-7"]["message"]) == (True, 90_071)


async def test_a_gateway_tells_its_workers_the_leases_kept_for_them_and_its_trouble() -> None:
    desk = busy()
    desk.hold("through", 20.0, target="gateway.main")
    desk.hold("gone", target="gateway.main", state=LeaseState.LOST)
    desk.hold("elsewhere", 20.0, target="gateway.east")
    (gateway,) = (await told(desk))["gateways"]["rows"]
    assert gateway == {
        "name": "main",
        "servicebus": "main",
        "listen": "127.0.0.1:5672",
        "workers": 2,
        "logging_in": 1,
        "leases": 1,
        "messages": 1_204,
        "upstream_failures": 4,
        "refused": 3,
    }
    assert (await told(Watched()))["gateways"] == {"count": 0, "rows": []}


async def test_of_twenty_thousand_leases_the_most_urgent_few_are_told() -> None:
    desk = Watched()
    for number in range(20_000):
        desk.hold(f"s{number}", 10.0 + (number * 7_919) % 20_000 / 1_000)
    for _ in range(3_000):
        desk.follow(OperationState.RUNNING, next_attempt_at=desk.clock.at + 5)
        desk.follow(OperationState.FAILED, ended_at=desk.clock.at - 5, error={"message": "x" * 5_000})
    snapshot = await take_snapshot(desk, desk.latest)
    now = json.loads(snapshot)
    assert now["held"]["count"] == 20_000
    assert [row["remaining_s"] for row in now["held"]["rows"]] == [10.0 + n / 1_000 for n in range(MOST_ROWS)]
    assert (now["followed"]["count"], len(now["followed"]["rows"])) == (3_000, MOST_ROWS)
    assert (now["ended"]["count"], len(now["ended"]["rows"])) == (3_000, MOST_PAST)
    assert len(snapshot) < 40_000


async def test_the_largest_snapshot_is_bounded() -> None:
    desk = Watched()
    labels = {f"{number}{HOSTILE}"[:63]: (HOSTILE * 3)[:255] for number in range(32)}
    worst = {"labels": labels, "entity": "\u202e" * 400, "last_error": HOSTILE * 99, "failures": 2}
    for number in range(200):
        desk.hold(f"{number}{HOSTILE}"[:128], 5.0, **worst)
        desk.hold(f"{number}{HOSTILE}"[:128], losses=3, **worst)
        desk.follow(OperationState.RUNNING, labels=labels, last_poll_error=HOSTILE * 99)
    desk.trouble = [HOSTILE * 99] * 99
    assert len(await take_snapshot(desk, desk.latest)) < 400_000


async def test_others_get_their_turn_while_a_snapshot_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[None] = []

    async def checkpoint() -> None:
        turns.append(None)

    monkeypatch.setattr("renewer.daemon.page.snapshot.anyio.lowlevel.checkpoint", checkpoint)
    desk = Watched()
    for number in range(4 * LOOKED_AT_ONCE):
        desk.hold(str(number), 5.0)
    await told(desk)
    assert len(turns) == 4


async def test_a_lease_without_anything_is_told_too() -> None:
    desk = Watched(clock=StandingClock(0.0))
    desk.hold(None)
    row = (await told(desk))["not_held"]["rows"][0]
    assert (row["session_id"], row["remaining_s"], row["duration_s"]) == (None, None, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("customer-42", "customer-42"),
        ("<b>&amp;", "<b>&amp;"),
        ("שלום ä 日本", "שלום ä 日本"),
        ("a\u202eb\u200fc", "a\\u202eb\\u200fc"),
        ("a\nb\x00\x1b[2J", "a\\nb\\u0000\\u001b[2J"),
        ("half \ud83d", "half \\ud83d"),
        ("key=42", "key=42"),
        ("x" * 400, "x" * 299 + "…"),
    ],
)
def test_an_id_is_shown_so_that_all_of_it_can_be_seen(text: str, expected: str) -> None:
    assert visible(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Endpoint=sb://x;SharedAccessKey=c2VjcmV0",
        "GET https://x/op?sig=c2VjcmV0&se=1",
        "https://user:c2VjcmV0@x/",
        "Authorization: Bearer c2VjcmV0",
        "SharedAccessSignature sr=x&sig=c2VjcmV0",
    ],
)
def test_words_of_others_are_shown_without_their_credentials(text: str) -> None:
    assert "c2VjcmV0" not in shown(text)


def test_many_labels_are_cut() -> None:
    words = label_words({f"l{number}": "v" for number in range(9)})
    assert len(words) == MOST_LABELS + 1
    assert words[-1] == "+3"
