"""However a conversation is cut into pieces on its way in, the same is made of it: in virtual time."""

from __future__ import annotations

from itertools import accumulate
from random import Random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from renewer.amqp import (
    AMQP_HEADER,
    AmqpError,
    Begin,
    Close,
    ConnectionClosed,
    ConnectionState,
    Event,
    FrameType,
    Open,
    Transfer,
    encode_frame,
    stream,
)
from tests.amqp.amqp_pair import Pair, frame
from tests.amqp.conversations import Conversation, Side, answers, converse, frame_by_frame
from tests.amqp.plays import Ending, Play, Uncut

FEWER = settings(max_examples=max(1, settings.default.max_examples // 3), phases=[Phase.generate])
"""Each example is long, and a seed says no more for being smaller."""
GONE = {"LinkDetached", "LinkRefused", "SessionEnded", "ConnectionClosed"}
BACKENDS = ["asyncio", "trio"]
SEEDS = st.integers(0, 1 << 32)
MALFORMED = [
    b"\x00\x00\x00\x07\x02\x00\x00\x00",
    b"\x00\x00\x00\x08\x01\x00\x00\x00",
    b"\x00\x00\x00\x08\x02\x05\x00\x00",
    b"\x7f\xff\xff\xff\x02\x00\x00\x00",
    b"AMQP\x00\x01\x00\x00",
    encode_frame(0, b"\xff\xff"),
    encode_frame(0, b"\x00\x53\x14\xc0\x02"),
    encode_frame(0, b"\x00\x53\x77\x45"),
    encode_frame(0, b"", FrameType.SASL),
    frame(Open("again")),
    frame(Transfer(9_999), b"x", channel=9_999),
    frame(Begin(9_999, 0, 1, 1)),
]
"""Each ends the connection, wherever it comes once both sides have opened."""


def a_conversation(random: Random) -> Conversation:
    return converse(random, random.choice(("client", "server")))


def odd_play(conversation: Conversation, random: Random, ending: Ending = "eof") -> Play:
    return Play(
        conversation,
        random,
        ending,
        piece_size=random.choice((40, 500, 4_096)),
        read_size=random.choice((700, 65_536)),
        max_backlog=random.choice((100, 20_000, 1 << 24)),
        blocks=random.random() < 0.5,
    )


@pytest.mark.parametrize("backend", BACKENDS)
@FEWER
@given(seed=SEEDS)
def test_the_same_is_told_and_answered_whatever_the_pieces(backend: str, seed: int) -> None:
    random = Random(seed)
    conversation = a_conversation(random)
    told, answered = frame_by_frame(conversation.side, b"".join(conversation.turns), conversation.ends())
    play = odd_play(conversation, random).run(backend)
    assert play.told == told
    assert answers(play.output) == answers(answered)
    assert play.backlog <= play.max_backlog
    assert play.rest <= conversation.side.max_frame_size


@pytest.mark.parametrize("backend", BACKENDS)
@FEWER
@given(seed=SEEDS)
def test_a_conversation_cut_off_anywhere_is_heard_up_to_there(backend: str, seed: int) -> None:
    random = Random(seed)
    whole = a_conversation(random)
    turn = random.randrange(len(whole.turns))
    said = random.randrange(len(whole.turns[turn]) + 1)
    conversation = Conversation(whole.side, [*whole.turns[:turn], whole.turns[turn][:said]])
    total = sum(map(len, conversation.turns))
    ends = [end for end in whole.ends() if end <= total]
    told, answered = frame_by_frame(whole.side, b"".join(conversation.turns), ends)
    play = odd_play(conversation, random, random.choice(("eof", "cut"))).run(backend)
    assert play.told == told
    if play.ending == "eof":
        assert answers(play.output) == answers(answered)


@pytest.mark.parametrize("backend", BACKENDS)
@FEWER
@given(seed=SEEDS, malformed=st.sampled_from(MALFORMED))
def test_all_before_what_is_malformed_is_heard_and_nothing_after_it(backend: str, seed: int, malformed: bytes) -> None:
    random = Random(seed)
    whole = a_conversation(random)
    said = b"".join(whole.turns)
    ends = [end for end in whole.ends() if end > said.index(AMQP_HEADER) + len(AMQP_HEADER)]
    if whole.side.role == "client":
        # What it asks for when it is told of something counts among what is lost, so that all was told before.
        ends = [end for end in accumulate(map(len, whole.turns)) if end in ends]
    at = random.choice(ends)
    turns, before = [], 0
    while before + len(whole.turns[len(turns)]) < at:
        turns.append(whole.turns[len(turns)])
        before += len(turns[-1])
    last = whole.turns[len(turns)]
    turns += [last[: at - before], malformed + last[at - before :] + random.randbytes(100)]
    if whole.side.role == "server" and random.random() < 0.8:
        turns[-2:] = [turns[-2] + turns[-1]]
    conversation = Conversation(whole.side, turns)
    told, answered = frame_by_frame(whole.side, b"".join(turns), [end for end in whole.ends() if end <= at])
    assert "protocol-error" in told[-1][1]
    play = odd_play(conversation, random, random.choice(("eof", "stays"))).run(backend)
    assert play.told == told
    early, late = answers(play.output), answers(answered)
    # What came with it in one piece is told together with the end, so that it is too late for answers.
    assert all(said == late[kind][: len(said)] for kind, said in early.items())
    assert early["Close",] == late["Close",]
    assert play.output.endswith(frame(early["Close",][0][1]))


@pytest.mark.parametrize("backend", BACKENDS)
@FEWER
@given(seed=SEEDS)
def test_after_the_close_of_the_peer_nothing_is_heard(backend: str, seed: int) -> None:
    random = Random(seed)
    whole = a_conversation(random)
    error = random.choice((None, AmqpError("amqp:connection:forced", "bye")))
    more = random.choice((b"", random.randbytes(10_000), frame(Close()), *MALFORMED))
    turns = [*whole.turns, frame(Close(error)) + more]
    if whole.side.role == "server" and random.random() < 0.8:
        turns[-2:] = [turns[-2] + turns[-1]]
    told, answered = frame_by_frame(whole.side, b"".join(whole.turns) + frame(Close(error)), whole.ends())
    play = odd_play(Conversation(whole.side, turns), random, random.choice(("eof", "cut", "stays"))).run(backend)
    assert play.told == told
    assert told[-1] == ("ConnectionClosed", repr(ConnectionClosed(error, "closed")))
    if play.ending != "cut":
        assert play.output.endswith(frame(Close()))
        early, late = answers(play.output), answers(answered)
        assert all(said == late[kind][: len(said)] for kind, said in early.items())


@pytest.mark.parametrize("backend", BACKENDS)
@FEWER
@given(seed=SEEDS)
def test_what_the_application_raises_is_the_last_that_it_was_told(backend: str, seed: int) -> None:
    random = Random(seed)
    conversation = a_conversation(random)
    told, _ = frame_by_frame(conversation.side, b"".join(conversation.turns), conversation.ends())
    last = random.randrange(len(told))
    play = odd_play(conversation, random)

    def raise_at_last(_: Event) -> None:
        if len(play.told) > last:
            raise LookupError("enough")

    play.on_event = raise_at_last
    with pytest.raises(ExceptionGroup) as raised:
        play.run(backend)
    assert raised.group_contains(LookupError, match="enough")
    assert play.told == told[: last + 1]


@pytest.mark.parametrize("backend", BACKENDS)
@FEWER
@given(seed=SEEDS)
def test_a_connection_that_is_closed_in_the_middle_tells_its_end_last(backend: str, seed: int) -> None:
    random = Random(seed)
    conversation = a_conversation(random)
    told, _ = frame_by_frame(conversation.side, b"".join(conversation.turns), conversation.ends())
    count = random.randrange(1, len(told))
    play = odd_play(conversation, random)
    was_open = False

    def close(_: Event) -> None:
        nonlocal was_open
        if len(play.told) == count:
            was_open = play.connection.state is ConnectionState.OPENED
            play.connection.close()

    play.on_event = close
    play.run(backend)
    names = [name for name, *_ in play.told]
    assert play.told[:count] == told[:count]
    assert names.index("ConnectionClosed") == len(names) - 1
    # What came in the same piece is told yet, and then only what is gone.
    heard = [event for event in play.told if event[0] not in GONE]
    assert heard == [event for event in told if event[0] not in GONE][: len(heard)]
    if was_open:
        assert play.output.endswith(frame(Close()))
        assert play.told[-1] == ("ConnectionClosed", repr(ConnectionClosed(None, "closed")))


def ten_deliveries(*, settled: bool) -> Conversation:
    """A client says all that it has for which there is credit in one turn, the last."""
    conversation = Conversation(Side("server", 65_536, 2_048, sasl=False))
    pair = Pair(
        client={"sasl": None}, server={"sasl": None}, on_request=lambda request: request.link.accept(auto_credit=30)
    )
    take_output = pair.client.take_output

    def overheard(now: float | None = None) -> bytes:
        said = take_output(now)
        conversation.turns += [said] if said else []
        return said

    pair.client.take_output = overheard  # type: ignore[method-assign]
    sender, _ = pair.sender(pair.open_session(), "s" * 27)
    for _ in range(10):
        sender.send(bytes(4_000), settled=settled)
    pair.pump()
    return conversation


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_has_answers_is_taken_in_by_and_by_and_they_go_out_between(backend: str) -> None:
    conversation = ten_deliveries(settled=False)
    play = Play(conversation, Uncut()).run(backend)
    rest = len(conversation.turns[-1]) - 9 * stream.PIECE_SIZE
    assert [size for what, size in play.done if what == "in"] == [stream.PIECE_SIZE] * 9 + [rest]
    last_in = play.done.index(("in", rest))
    assert "out" in [what for what, _ in play.done[:last_in]]
    assert len(answers(play.output)["disposition", 0, True]) == 10


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("max_backlog", [100, 1 << 24])
def test_of_a_peer_that_took_nothing_and_left_all_is_heard(backend: str, max_backlog: int) -> None:
    conversation = ten_deliveries(settled=False)
    play = Play(conversation, Uncut(1), "cut", read_size=1_000, max_backlog=max_backlog).run(backend)
    assert [name for name, *_ in play.told].count("DeliveryReceived") == 10
    assert play.told[-1] == ("ConnectionClosed", repr(ConnectionClosed(None, "eof")))


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_has_no_answer_is_taken_in_as_it_comes(backend: str) -> None:
    conversation = ten_deliveries(settled=True)
    play = Play(conversation, Uncut()).run(backend)
    assert play.done == [("in", stream.PIECE_SIZE), ("in", len(conversation.turns[-1]) - stream.PIECE_SIZE)]
