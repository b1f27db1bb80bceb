"""Requests and replies over a pair of links to one node (AMQP request/response, as `$cbs` and `$management` speak it).

Replies are matched to requests by message-id. A reply for nobody, a second one, or one that cannot be read is dropped:
the request whose reply is lost has a caller with a deadline. When either link is detached, requests that are under way
fail, and the pair is attached anew for those that wait.
"""

from __future__ import annotations

from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import anyio

from renewer.amqp import (
    Accepted,
    LinkState,
    ReceiverLink,
    Rejected,
    SenderLink,
    Source,
    Target,
)
from renewer.errors import AmqpProtocolError, RemoteError, TransientError
from renewer.targets.servicebus.envelope import Reply, Template, read_reply
from renewer.targets.servicebus.request import Request, message_ids
from renewer.targets.servicebus.verdicts import copy_of, describe, pair_refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from renewer.amqp import AmqpError, Attach, Delivery, DeliveryState
    from renewer.targets.servicebus.carrier import Carrier

REPLY_CREDIT: Final = 1000
"""How many replies the broker may send at any time; topped up for ever."""

MAX_REPLY_SIZE: Final = 8 * 1024 * 1024
"""Bytes of one reply; a larger one, which only a session's state can be, costs the pair its links."""

WINDOW_HOLD_S: Final = 2.0
"""How long a request without an answer counts against the window: a lost reply must not keep others from being sent."""

STALLED_S: Final = 1.5
"""How long nothing comes back before it is tried over other links. Late answers are taken from the old ones still."""

UNANSWERED_S: Final = 1.0
"""A request that was given up sooner than this says nothing about the broker."""

SETTLED_AT_ONCE: Final = 200
"""Replies are settled with the next requests, or when `pump` is called; but no more than so many wait for that."""

# snd-settle-mode (AMQP 1.0 part 2.8.2). Replies come settled, and some requests are sent so: Microsoft.Azure.Amqp has
# both settled, @azure/service-bus says mixed.
_UNSETTLED: Final = 0
_SETTLED: Final = 1
_MIXED: Final = 2

_REOPEN_BASE_S: Final = 0.1
_REOPEN_CAP_S: Final = 5.0


class RequestPair:
    """One pair of links to `address`. `prepare` is awaited before each attach; it raises RemoteError to refuse.

    Pairs with the same `registry` take replies for each other, for a broker that cannot tell them apart.
    """

    def __init__(
        self,
        carrier: Carrier,
        address: str,
        *,
        window: int,
        prepare: Callable[[RemoteError | None], Awaitable[None]] | None = None,
        registry: dict[bytes, Request] | None = None,
    ) -> None:
        self._carrier = carrier
        self.address = address
        self._window = window
        self._prepare = prepare
        self._sender: SenderLink | None = None
        self._receiver: ReceiverLink | None = None
        self._is_opening = False
        self._is_closed = False
        self._settled = anyio.Event()
        self._trouble: RemoteError | None = None
        self._failures = 0
        self._ids = message_ids()
        self._places = count()
        self._queue: dict[int, Request] = {}
        self._sent: dict[bytes, Request] = {}
        self._registry: dict[bytes, Request] = {} if registry is None else registry
        self._replied_at = 0.0
        self._deliveries: dict[Delivery, Request] = {}
        self._unsettled: list[Delivery] = []
        self._counted: deque[Request] = deque()
        self._in_window = 0

    @property
    def pending(self) -> int:
        """Requests that wait to be sent or answered."""
        return len(self._queue) + len(self._sent)

    @property
    def max_request_size(self) -> int | None:
        """How many bytes a request may have; None while the broker has not said."""
        return None if self._sender is None else self._sender.max_message_size

    @property
    def is_open(self) -> bool:
        """Whether both links are attached."""
        sender, receiver = self._sender, self._receiver
        return sender is not None and sender.is_attached and receiver is not None and receiver.is_attached

    def is_stalled(self, now: float) -> bool:
        """Whether the links are attached, and yet nothing has come back for so long that other links may do better."""
        if not self.is_open:
            return False
        waiting = [next(iter(requests.values()), None) for requests in (self._sent, self._queue)]
        asked_at = min((request.asked_at for request in waiting if request is not None), default=now)
        return now - max(asked_at, self._replied_at) > STALLED_S

    async def request(self, template: Template) -> Reply:
        """Send as soon as window and credit allow, and wait for the reply. Bounded by the caller's deadline.

        TransientError when the links or the connection go down before the reply is there.
        """
        over = anyio.Event()
        request = self.ask(template, lambda _: over.set())
        try:
            await over.wait()
        finally:
            request.cancel()
        return request.result()

    def ask(self, template: Template, answered: Callable[[Request], None], *, before: Request | None = None) -> Request:
        """Send as soon as window and credit allow; no task is needed to wait for the reply.

        `answered` is called once, with the request, when it has its result, be that before this returns; never after
        `cancel`. Who gets an error there may be told while links or connection are going down. TransientError if the
        pair is closed.

        `before` is one that asks for the same. If it was sent it is listened to, and no longer counts against the
        window; if not, it never will be, and the new one has its place in the queue.
        """
        if self._is_closed:
            raise TransientError(f"{self.address} is closed", kind="network")
        request = Request(template, self, self._carrier.now(), answered)
        if before is None or not before.home.replace(before, request):
            request.place = next(self._places)
            self._queue[request.place] = request
        try:
            self.pump()
        except BaseException:
            self.forget(request)
            raise
        return request

    def replace(self, before: Request, request: Request) -> bool:
        """`before` no longer counts, for `request` asks for the same. Whether that now has its place in our queue."""
        self._uncount(before)
        if self._queue.get(before.place) is not before:
            return False
        if request.home is not self:
            del self._queue[before.place]
            return False
        # Also how long nothing has been sent, by which it is seen that other links may do better.
        request.place, request.asked_at = before.place, before.asked_at
        self._queue[request.place] = request
        return True

    def open_soon(self) -> None:
        """Attach the links, if that has not been done or begun."""
        if not (self.is_open or self._is_opening or self._is_closed):
            self._is_opening = True
            self._carrier.spawn(self._open)

    def reopen(self) -> None:
        """Give the links up, and what is under way over them; the next request attaches new ones."""
        self._detach()
        self._fail(list(self._sent.values()), TransientError(f"{self.address} was given up", kind="network"))

    def pump(self) -> None:
        """Send what may be sent. Called whenever that may have changed, and now and then for the window's sake."""
        if self._unsettled:
            self._settle_replies()
            self._carrier.flush(for_renewals=True)
        if not self._queue:
            return
        sender = self._sender
        if sender is None or not self.is_open:
            self.open_soon()
            return
        now = self._carrier.now()
        for_renewals = True
        while self._queue and sender.credit > sender.queued and self._has_room(now):
            request = self._queue.pop(next(iter(self._queue)))
            for_renewals = for_renewals and request.template.is_settled
            self._send(sender, request, now)
        self._carrier.flush(for_renewals=for_renewals)

    def close(self, error: RemoteError) -> None:
        """Fail everything that waits, and never open again. The links are detached if they can be."""
        self._is_closed = True
        self._trouble = error
        self._detach()
        self._settled.set()
        self._fail([*self._queue.values(), *self._sent.values()], error)

    # Events of the two links ----------------------------------------------------------------------------------------

    def on_attached(self, remote: Attach) -> None:
        """One of the links is attached."""
        if self.is_open:
            self._settled.set()

    def on_detached(self, error: AmqpError | None, *, by_us: bool) -> None:
        """One of the links is gone, or was refused: so is the pair."""
        if self._sender is None or (by_us and not self._was_oversized()):
            return
        trouble = self._trouble = pair_refused(error, self.address)
        self._detach()
        self._settled.set()
        if not self._is_opening:
            self._failures += 1
            if self._queue:
                self.open_soon()
        self._fail(list(self._sent.values()), trouble)

    def on_credit(self) -> None:
        """The broker takes more requests."""
        self.pump()

    def on_delivery(self, delivery: Delivery) -> None:
        """A reply, to somebody or nobody."""
        if not delivery.settled:
            self._unsettled.append(delivery)
            if len(self._unsettled) >= SETTLED_AT_ONCE:
                self._settle_replies()
        try:
            key, said = read_reply(delivery.payload)
        except AmqpProtocolError as error:
            self._carrier.unreadable_reply(self.address, error)
            return
        request = self._registry.get(key) if key is not None else None
        if request is None:
            self._carrier.dropped_reply(self.address)
            return
        self._carrier.answered()
        now = self._carrier.now()
        request.reply = Reply(*said, request.sent_at, now)
        request.home.on_reply(request, now)

    def on_reply(self, request: Request, now: float) -> None:
        """A request of this pair was answered, be it on the links of another."""
        self._failures, self._replied_at = 0, now
        self._finish(request)
        if self._queue:
            self.pump()

    def on_updated(self, delivery: Delivery, state: DeliveryState | None, *, settled: bool) -> None:
        """The broker took a request, or would not."""
        if not settled and isinstance(delivery.link, SenderLink):
            delivery.link.settle(delivery)
        request = self._deliveries.pop(delivery, None)
        if request is None or isinstance(state, Accepted) or state is None:
            return
        refusal = state.error if isinstance(state, Rejected) else None
        text = describe(refusal, "a request was not taken")
        condition = None if refusal is None else str(refusal.condition)
        self._fail([request], TransientError(f"{self.address}: {text}", kind="server", condition=condition))

    # Opening --------------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        trouble = self._trouble
        try:
            if self._failures:
                await anyio.sleep(self._carrier.backoff_s(self._failures, base_s=_REOPEN_BASE_S, cap_s=_REOPEN_CAP_S))
            if self._prepare is not None:
                await self._prepare(trouble)
            await self._attach()
        except RemoteError as error:
            self._failures += 1
            self._trouble = error
            self._detach()
            self._fail([*self._queue.values(), *self._sent.values()], error)
        finally:
            self._is_opening = False
        self.pump()

    async def _attach(self) -> None:
        channel = await self._carrier.place_requests(2)
        if self._is_closed:
            channel.free(2)
            return
        self._settled = anyio.Event()
        node = self.address
        name = str(uuid4())
        # Both addresses of both links are the node's own, as azure-servicebus 7.15 has them.
        source, target = Source(address=node), Target(address=node)
        to_free = 2
        try:
            self._receiver = channel.session.attach_receiver(
                f"{name}-in",
                source=source,
                target=target,
                snd_settle_mode=_SETTLED,
                auto_credit=REPLY_CREDIT,
                max_message_size=MAX_REPLY_SIZE,
            )
            self._carrier.own(self._receiver, self, channel)
            to_free = 1
            self._sender = channel.session.attach_sender(
                f"{name}-out", source=source, target=target, snd_settle_mode=_MIXED
            )
            self._carrier.own(self._sender, self, channel)
        except AmqpProtocolError as error:
            channel.free(to_free)
            raise TransientError(f"{node} could not be attached: {error}", kind="network") from error
        self._carrier.flush()
        with anyio.move_on_after(self._carrier.answer_timeout_s) as scope:
            await self._settled.wait()
        if scope.cancelled_caught:
            self._carrier.unanswered()
            raise TransientError(f"{node} was not attached in time", kind="timeout")
        if not self.is_open:
            raise copy_of(self._trouble) if self._trouble else TransientError(f"{node} was detached", kind="network")
        self._trouble = None

    def _was_oversized(self) -> bool:
        """Whether the link for replies was detached below us: a reply was too large. All others we let go of here."""
        return self._receiver is not None and self._receiver.state in (LinkState.DETACHING, LinkState.DETACHED)

    def _detach(self) -> None:
        self._settle_replies()
        links = (self._sender, self._receiver)
        self._sender = self._receiver = None
        for link in links:
            if link is not None:
                link.detach()
        self._carrier.flush()

    # Requests -------------------------------------------------------------------------------------------------------

    def _has_room(self, now: float) -> bool:
        while self._counted and (not self._counted[0].counts or self._counted[0].sent_at < now - WINDOW_HOLD_S):
            self._uncount(self._counted.popleft())
        return self._in_window < self._window

    def _uncount(self, request: Request) -> None:
        if request.counts:
            request.counts = False
            self._in_window -= 1

    def _send(self, sender: SenderLink, request: Request, now: float) -> None:
        key = request.key = next(self._ids)
        request.sent_at, request.counts = now, True
        self._sent[key] = self._registry[key] = request
        self._counted.append(request)
        self._in_window += 1
        try:
            template = request.template
            settled = template.is_settled and sender.remote is not None and sender.remote.snd_settle_mode != _UNSETTLED
            delivery = sender.send(template.render(key), settled=settled)
        except AmqpProtocolError as error:
            refusal = TransientError(f"{self.address}: {error}", kind="server", condition=error.condition)
            self._fail([request], refusal)
            return
        if not delivery.settled:
            request.delivery = delivery
            self._deliveries[delivery] = request

    def _settle_replies(self) -> None:
        """Replies that came together are settled together: each by itself costs a frame, and most often a write."""
        unsettled, self._unsettled = self._unsettled, []
        if unsettled and isinstance(unsettled[0].link, ReceiverLink):
            unsettled[0].link.settle_all(unsettled, Accepted())

    def _finish(self, request: Request) -> None:
        self.forget(request)
        request.tell()

    def _fail(self, requests: list[Request], error: RemoteError) -> None:
        for request in requests:
            if not request.is_cancelled:
                request.error = copy_of(error)
                self._finish(request)

    def forget(self, request: Request) -> None:
        """Forget a request that is answered, failed, or that nobody waits for any longer."""
        if self._queue.get(request.place) is request:
            del self._queue[request.place]
        self._uncount(request)
        was_sent = self._sent.pop(request.key, None) is not None
        self._registry.pop(request.key, None)
        if was_sent and request.is_unanswered and self._carrier.now() - request.sent_at > UNANSWERED_S:
            self._carrier.unanswered()
        delivery = request.delivery
        if delivery is not None:
            request.delivery = None
            if self._deliveries.pop(delivery, None) is not None and isinstance(delivery.link, SenderLink):
                # A broker that never settles must not make us remember every request.
                delivery.link.settle(delivery)
