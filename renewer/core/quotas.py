"""Quotas: how many requests a service lets one identity make, and when it wants none at all.

Every request of an operation counts against one quota: that of its identity, host and bucket. A quota allows so many
requests in a span of time and so many at once; when the service says "too many" the quota as a whole is paused, because
each further request would only make it longer. Those who must wait are let go in the order in which they fell due,
what brings something home (first requests and results) before mere polls, and spread out after a pause.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from renewer.core.duequeue import DueQueue

if TYPE_CHECKING:
    from collections.abc import Iterator

Asking = Literal["submit", "poll", "fetch"]
"""What an operation's next request is for: to start it, to ask how it stands, to fetch its result."""

SPREAD_S = 10.0
"""Over how long those who waited out a pause are spread, or over the length of the pause if that was shorter."""

CATCH_UP_S = 0.05
"""How far behind its pace a quota may fall and still make up for it: the shell is not always there on the instant."""

FEW = 100
"""From so many quotas on it is looked for those out of use: with private links each workspace has its own."""

POLL_PATIENCE_S = 60.0
"""So much longer than what brings something home a mere poll waits; but not for ever, however much there is of that."""

LONGEST_PAUSE_S = 3600.0
"""No pause is longer, whatever the service asks for; who is still not welcome then is told so again."""

UNASKED_PAUSE_S = 1.0
"""The first pause where the service does not say how long; twice as long each time in a row."""

UNASKED_PAUSE_CAP_S = 60.0


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `count` requests reach the service in any `span_s` seconds, wherever the span is laid.

    A request counts until so long after its answer: when it reached the service in between nobody knows.
    """

    count: int
    span_s: float


@dataclass(frozen=True, slots=True)
class Quota:
    """What a request counts against.

    `name` is its key and what people see: the account that gives the identity, the host where it is not the account's
    own, and the bucket (``fabric.main jobs``). `limit` is None where no number is known; `at_once` bounds the requests
    under way.
    """

    name: str
    limit: Limit | None = None
    at_once: int = 64


@dataclass(frozen=True, slots=True)
class QuotaReading:
    """A quota as it is now. `paused_until` is a monotonic instant; None where it is not paused."""

    name: str
    waiting: int
    under_way: int
    paused_until: float | None
    pauses: int


class Quotas:
    """All quotas that are in use, by name. A request is known by the id of its operation, which has one at a time."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self._under_way: dict[str, _Bucket] = {}
        # When each opens that is waited for: with private links there are thousands, and this is asked all the time.
        self._openings: DueQueue[str] = DueQueue()

    def admit(self, key: str, quota: Quota, asking: Asking, due_at: float, now: float) -> bool:
        """Whether a request may begin now; it counts if so. Otherwise it waits, until `ready` names it."""
        bucket = self._bucket(quota, now)
        if bucket.is_open(now) and not bucket.waiting:
            self._begin(key, bucket)
            return True
        bucket.enqueue(key, asking, due_at)
        self._plan(bucket, now)
        return False

    def is_at_ease(self, quota: Quota, now: float) -> bool:
        """Whether a request that need not be made would keep nobody waiting: half of the limit is still there."""
        bucket = self._buckets.get(quota.name)
        return bucket is None or (bucket.is_open(now) and not bucket.waiting and bucket.is_at_ease(now))

    def next_due(self) -> float | None:
        """When `ready` next has somebody to name; None for not before a request has ended."""
        return self._openings.next_due()

    def ready(self, now: float, most: int) -> list[str]:
        """Those who waited and may begin now, at most so many; they count from here on."""
        keys: list[str] = []
        while len(keys) < most and (name := self._openings.pop_due(now)) is not None:
            bucket = self._buckets[name]
            while len(keys) < most and bucket.waiting and bucket.is_open(now):
                key = bucket.dequeue(now)
                self._begin(key, bucket)
                keys.append(key)
            self._plan(bucket, now)
        return keys

    def leave(self, key: str, name: str, now: float) -> None:
        """It does not wait any longer for the quota of this name. No error if it did not."""
        # Whoever waits knows for what: to note that here, too, would take 40 B for each.
        bucket = self._buckets.get(name)
        if bucket is not None:
            bucket.waiting.cancel(key)
            self._plan(bucket, now)

    def ended(self, key: str, now: float) -> None:
        """Its request is over. No error if there was none."""
        bucket = self._under_way.pop(key, None)
        if bucket is not None:
            bucket.end(now)
            self._plan(bucket, now)

    def throttled(self, key: str, asked_s: float | None, now: float) -> None:
        """The service answered this request with "too many": pause its quota for as long as that asks for."""
        bucket = self._under_way.get(key)
        if bucket is not None:
            bucket.pause(asked_s, now)
            self._plan(bucket, now)

    def keep_closed(self, quota: Quota, until: float, now: float) -> None:
        """The service wanted no requests before `until` when the daemon was last there."""
        bucket = self._bucket(quota, now)
        bucket.close(until, now)
        self._plan(bucket, now)

    def answered(self, key: str) -> None:
        """The service answered this request otherwise."""
        bucket = self._under_way.get(key)
        if bucket is not None:
            bucket.strikes = 0

    def readings(self, now: float) -> Iterator[QuotaReading]:
        """Every quota as it is now."""
        for name, bucket in self._buckets.items():
            paused_until = bucket.paused_until if bucket.paused_until > now else None
            yield QuotaReading(name, len(bucket.waiting), bucket.under_way, paused_until, bucket.pauses)

    def _bucket(self, quota: Quota, now: float) -> _Bucket:
        bucket = self._buckets.get(quota.name)
        if bucket is None:
            if len(self._buckets) >= FEW:
                self._sweep(now)
            bucket = self._buckets[quota.name] = _Bucket(quota)
        bucket.quota = quota
        return bucket

    def _begin(self, key: str, bucket: _Bucket) -> None:
        bucket.under_way += 1
        self._under_way[key] = bucket

    def _plan(self, bucket: _Bucket, now: float) -> None:
        """Something about it is another now: note when it opens, if time decides that and somebody waits."""
        is_awaited = bool(bucket.waiting) and not bucket.is_full
        self._openings.schedule(bucket.quota.name, max(bucket.opens_at, now) if is_awaited else None)

    def _sweep(self, now: float) -> None:
        """Forget quotas that stand as if they had never been used."""
        self._buckets = {name: bucket for name, bucket in self._buckets.items() if not bucket.is_idle(now)}


class _Bucket:
    """One quota, and those who wait for it."""

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self.waiting: DueQueue[str] = DueQueue()
        self.under_way = 0
        self.paused_until = -math.inf
        self.pauses = 0
        self.strikes = 0
        self._ended: deque[float] = deque()
        self._next_at = -math.inf
        self._spread_until = -math.inf

    @property
    def is_full(self) -> bool:
        """Whether as many requests are under way as may be."""
        limit = self.quota.limit
        return self.under_way >= self.quota.at_once or (limit is not None and self.under_way >= limit.count)

    @property
    def opens_at(self) -> float:
        """When the next request may begin, as far as time decides: not before it is not full any longer."""
        at = self.paused_until
        limit = self.quota.limit
        if limit is not None and len(self._ended) >= (left := max(1, limit.count - self.under_way)):
            at = max(at, self._ended[-left] + limit.span_s)
        return max(at, self._next_at) if self.waiting else at

    def is_open(self, now: float) -> bool:
        """Whether a request may begin."""
        return not self.is_full and self.opens_at <= now

    def is_idle(self, now: float) -> bool:
        """Whether nobody needs it, and nothing that was is of consequence."""
        return not self.waiting and not self.under_way and self.paused_until <= now and not self._used(now)

    def is_at_ease(self, now: float) -> bool:
        """Whether less than half of the limit is used."""
        limit = self.quota.limit
        return limit is None or 2 * self._used(now) < limit.count

    def _used(self, now: float) -> int:
        limit = self.quota.limit
        return 0 if limit is None else self.under_way + sum(at > now - limit.span_s for at in self._ended)

    def enqueue(self, key: str, asking: Asking, due_at: float) -> None:
        """Have it wait."""
        # The instant of a poll, of which there are most, stays the very object that its operation has.
        self.waiting.schedule(key, due_at if asking == "poll" else due_at - POLL_PATIENCE_S)

    def dequeue(self, now: float) -> str:
        """Whose turn it is. There must be somebody."""
        key = cast("str", self.waiting.pop_due(math.inf))
        # What is left of the spread is for all who wait by now: those who came since must not wait at the others' pace.
        pace_s = max(0.0, self._spread_until - now) / (len(self.waiting) + 1)
        limit = self.quota.limit
        # Without a pace those who fill a limit would come in one burst, each time that it opens.
        pace_s = max(pace_s, 0.0 if limit is None else limit.span_s / limit.count)
        self._next_at = max(self._next_at, now - CATCH_UP_S) + pace_s
        return key

    def end(self, now: float) -> None:
        """One request is over."""
        self.under_way -= 1
        limit = self.quota.limit
        if limit is None:
            self._ended.clear()
            return
        self._ended.append(now)
        while len(self._ended) > limit.count:
            self._ended.popleft()

    def pause(self, asked_s: float | None, now: float) -> None:
        """Let nobody begin for as long as the service asks; where it names no time, longer each time in a row."""
        is_new = self.paused_until <= now
        if is_new:
            self.strikes += 1
            self.pauses += 1
        pause_s = min(UNASKED_PAUSE_S * 2 ** min(self.strikes - 1, 16), UNASKED_PAUSE_CAP_S)
        if asked_s is not None and asked_s > 0:
            pause_s = min(asked_s, LONGEST_PAUSE_S)
        self.close(now + pause_s, now)

    def close(self, until: float, now: float) -> None:
        """Let nobody begin before `until`, and then not all at once."""
        self.paused_until = max(self.paused_until, until)
        self._spread_until = self.paused_until + min(SPREAD_S, self.paused_until - now)
