"""When things fall due: arithmetic over instants and spans, nothing else.

An instant is a float of seconds on a monotonic clock, a span a float of seconds. Random fractions in [0, 1) are drawn
by the caller. The rules are those of ARCHITECTURE.md, "Rules for leases" and "Rules for operations".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_BACKOFF_EXPONENT = 16
"""Exponents are clamped before they are raised: 2**16 times any base is past every cap."""


TOGETHER = 250
"""How many locks fall due at one moment, about, where they can be renewed together and are many: a few requests."""

_LEAST_WIDTH = 0.02
"""By so much of its time a renewal may be earlier, to go with others, where the policy has no jitter."""

_GRAIN = (math.sqrt(5.0) - 1.0) / 2.0
"""Round moments are multiples of this. Not of a second: locks last whole seconds, so that their bounds would fall on
round moments, now before them and now behind, and what belongs together would come apart."""


@dataclass(frozen=True, slots=True)
class RenewalPolicy:
    """How one lease is kept. Spans in seconds.

    A renewal is due at `due_fraction` of the lock's duration, up to `jitter` of that earlier, and at the latest every
    `max_interval_s`. An attempt may take `attempt_fraction` of what remains of the lock before the next one is
    started; the earlier one's answer still counts when it comes late.
    """

    due_fraction: float = 0.5
    jitter: float = 0.1
    max_interval_s: float = 240.0
    attempt_fraction: float = 0.2
    min_attempt_s: float = 0.25
    max_attempt_s: float = 10.0
    max_outstanding: int = 8
    backoff_base_s: float = 0.1
    backoff_cap_s: float = 10.0
    acquire_attempt_s: float = 75.0
    acquire_timeout_s: float = 60.0
    reacquire: bool = True
    max_duration_s: float | None = None
    retention_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class PollPolicy:
    """How one operation is followed. Spans in seconds.

    `floor_s` and `ceiling_s` bound what the service asks for in Retry-After; `default_interval_s` stands in where it
    asks for nothing that can be used. `not_found_grace_s` is how long a 404 may last before the operation counts as
    expired, `refused_grace_s` how long the service may refuse to tell before it cannot be followed; `deadline_s` is the
    operation's own end. `attempt_s` is how long a request may take, `fetch_s` how long it may take to fetch a result,
    which can be large. With `early_probe_s` there is one more poll, so long after the first answer.
    """

    floor_s: float = 1.0
    ceiling_s: float = 3600.0
    default_interval_s: float = 30.0
    not_found_grace_s: float = 120.0
    refused_grace_s: float = 600.0
    early_probe_s: float | None = None
    deadline_s: float = 86_400.0
    attempt_s: float = 60.0
    fetch_s: float = 900.0
    backoff_base_s: float = 1.0
    backoff_cap_s: float = 60.0
    retention_s: float = 86_400.0


def renewal_due_at(policy: RenewalPolicy, *, anchored_at: float, duration_s: float, fraction: float) -> float:
    """When to renew a lock that was granted at `anchored_at` for `duration_s`."""
    span = min(policy.due_fraction * duration_s, policy.max_interval_s)
    return anchored_at + span * (1.0 - policy.jitter * fraction)


def shared_moment(due_at: float, duration_s: float, *, share: int = 100) -> float:
    """The last moment of a grid at or before `due_at`, less than one part in `share` of the lock away.

    Locks that last about as long share the grid, so that those which fall due close together fall due at once.
    """
    step = 2.0 ** (math.frexp(duration_s / share)[1] - 1)
    return math.floor(due_at / step) * step


def gathered_due_at(
    policy: RenewalPolicy, *, anchored_at: float, duration_s: float, fraction: float, crowd: int
) -> float:
    """When to renew a lock that can be renewed together with others, of which there are `crowd`, itself included.

    Within the bounds of `renewal_due_at`, at the roundest moment: locks whose bounds overlap soon agree on it, whenever
    they were taken, and stay together. Where that would bring more than `TOGETHER` to one moment it is the roundest in
    a random part of those bounds.
    """
    span = policy.due_fraction * duration_s
    if span > policy.max_interval_s:
        span = policy.max_interval_s
    latest, width = anchored_at + span, span * (max(_LEAST_WIDTH, policy.jitter))
    if crowd * policy.jitter > TOGETHER:
        part = width * TOGETHER / (crowd * policy.jitter)
        latest -= (width - part) * fraction
        width = part
    return _roundest(latest - width, latest)


def renewal_attempt_s(policy: RenewalPolicy, *, remaining_s: float, duration_s: float) -> float:
    """How long to wait for an answer before the next attempt is started.

    A fixed share of what remains, so that attempts grow denser towards expiry and always another one fits. After
    expiry the same share of a whole lock.
    """
    span = (remaining_s if remaining_s > 0 else duration_s) * policy.attempt_fraction
    if span < policy.min_attempt_s:
        span = policy.min_attempt_s
    return min(policy.max_attempt_s, span)


def renewal_retry_s(
    policy: RenewalPolicy,
    *,
    failures: int,
    fraction: float,
    remaining_s: float,
    duration_s: float,
    asked_s: float | None,
) -> float:
    """How long to wait after the `failures`-th refusal in a row, never more than one attempt's share of the lock.

    `asked_s` is what the broker asked us to wait: honoured as far as the lock allows, for a lock that expired while
    we were being polite helps nobody.
    """
    share = renewal_attempt_s(policy, remaining_s=remaining_s, duration_s=duration_s)
    delay = full_jitter_s(failures, fraction, base_s=policy.backoff_base_s, cap_s=share)
    return min(max(delay, asked_s or 0.0), share)


def full_jitter_s(failures: int, fraction: float, *, base_s: float, cap_s: float) -> float:
    """Exponential backoff with full jitter: a random share of ``base * 2**(failures - 1)``, capped."""
    exponent = min(max(failures - 1, 0), MAX_BACKOFF_EXPONENT)
    return fraction * min(cap_s, base_s * 2.0**exponent)


def poll_delay_s(policy: PollPolicy, retry_after_s: float | None) -> float:
    """How long to wait before the next poll, given what the service asked for.

    Nothing, zero, a negative or a non-finite number say nothing usable and mean the default; everything else is
    clamped to the policy's floor and ceiling.
    """
    if retry_after_s is None or not math.isfinite(retry_after_s) or retry_after_s <= 0:
        retry_after_s = policy.default_interval_s
    return min(max(retry_after_s, policy.floor_s), policy.ceiling_s)


def poll_retry_s(policy: PollPolicy, *, failures: int, fraction: float, asked_s: float | None) -> float:
    """How long to wait after the `failures`-th failed poll in a row; never less than the service asked for."""
    backoff = full_jitter_s(failures, fraction, base_s=policy.backoff_base_s, cap_s=policy.backoff_cap_s)
    delay = max(policy.floor_s, backoff)
    if asked_s is not None and math.isfinite(asked_s) and asked_s > 0:
        delay = max(delay, min(asked_s, policy.ceiling_s))
    return delay


def _roundest(after: float, upto: float) -> float:
    """The moment in (after, upto] that is a multiple of the largest power of two, in grains."""
    step = _GRAIN * 2.0 ** (math.frexp((upto - after) / _GRAIN)[1] - 1)
    low, high = math.floor(after / step), math.floor(upto / step)
    # Of the numbers above `low` up to `high`, the one that ends in most zeros is what `high` and no `low` begins with.
    zeros = (low ^ high).bit_length() - 1
    return (high >> zeros << zeros if zeros > 0 else high) * step
