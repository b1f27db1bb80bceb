"""The registrar: turns what is asked for into leases and operations to keep, and finds what was asked for before."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from renewer.core.effects import LeaseNews, OperationNews
from renewer.core.model import NO_OWNER, LeaseId, LeaseSpec, OperationId, OperationSpec, Owner
from renewer.core.states import LeaseKind, OwnerKind
from renewer.core.timing import PollPolicy, RenewalPolicy
from renewer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from renewer.api.control import FollowRequest, HoldRequest, Idempotency
    from renewer.core.effects import TellLease, TellOperation
    from renewer.core.model import PollAnswer
    from renewer.ports import LeaseTarget, OperationTarget

CONFIGURED = "config"
"""The origin, in a lease's context, of those that the configuration names."""

POOLED = "pool"
"""The origin of those that a pool keeps, for as long as nobody has taken them. `pool` in the context names it."""


_NO_LABELS: Mapping[str, str] = {}
_NO_CONTEXT: Mapping[str, Any] = {}
_PATIENT_S = 365 * 86_400.0

_Lock = tuple[str, str, LeaseKind, str]
"""Target, entity in lower case, kind, and the session's id or the message's token."""


@dataclass(frozen=True, slots=True)
class Room:
    """How many sessions a namespace can hold, and the settings that say so."""

    sessions: int
    why: str


@dataclass(frozen=True, slots=True)
class Namespace:
    """Where leases can be held, and how they are kept. `room` tells how many sessions fit, as far as is known now.

    `check` raises `UsageError` for a lease that cannot be kept there.
    """

    target: LeaseTarget
    policy: RenewalPolicy
    room: Callable[[], Room] | None = None
    check: Callable[[LeaseSpec], object] = lambda _spec: None


@dataclass(frozen=True, slots=True)
class Account:
    """An account that operations can be followed on, and how patiently."""

    target: OperationTarget
    policy: PollPolicy


class Registrar:
    """Knows namespaces and accounts by name (``servicebus.main``, ``fabric.main``), and what is registered by its lock.

    Ids are random and mean nothing.
    """

    def __init__(
        self,
        namespaces: dict[str, Namespace],
        accounts: dict[str, Account],
        check_callback: Callable[[str], object] | None = None,
    ) -> None:
        self.namespaces = namespaces
        self.accounts = accounts
        self._check_callback = check_callback
        self._by_lock: dict[_Lock, LeaseId] = {}
        self._by_idempotency: dict[tuple[type, str], str] = {}
        self._plain_contexts: dict[str, Mapping[str, Any]] = {}
        """Of leases of which their origin is all that there is to say: by that, and shared."""

    def lease(self, request: HoldRequest, *, origin: str = "api") -> LeaseSpec:
        """The lease that is asked for, with what the configuration adds. Raises `UsageError`."""
        name = _choose(request.servicebus, self.namespaces, "servicebus")
        is_message = request.kind is LeaseKind.MESSAGE
        if is_message != (request.lock_token is not None):
            raise UsageError("lock_token: a lease of kind message needs it, a session has none")
        if request.sequence_number is not None and not is_message:
            raise UsageError("sequence_number: goes with the kind message")
        if is_message and request.session_id is not None:
            raise UsageError("session_id: a message lock is named by its lock_token alone")
        context: dict[str, Any] = {"origin": origin}
        asked = {"reacquire": request.reacquire, "max_duration_s": request.max_duration_s}
        if asked := {key: value for key, value in asked.items() if value is not None}:
            context["asked"] = asked
        self._add_context(context, request.callback, request.idempotency)
        spec = LeaseSpec(
            id=LeaseId(f"lease-{secrets.token_hex(8)}"),
            target=name,
            # There are thousands of leases, and a few entities and contexts.
            entity=sys.intern(request.entity),
            kind=request.kind,
            session_id=request.session_id,
            lock_token=None if request.lock_token is None else _lock_token(request.lock_token),
            sequence_number=request.sequence_number,
            lock_duration_s=request.lock_duration_s,
            labels=dict(request.labels) if request.labels else _NO_LABELS,
            policy=self._policy(self.namespaces[name].policy, request.kind, request.owner, context),
            owner=request.owner,
            context=context if len(context) > 1 else self._plain_contexts.setdefault(origin, context),
        )
        self.namespaces[name].check(spec)
        return spec

    def with_policy(self, spec: LeaseSpec) -> LeaseSpec:
        """The lease, kept as the configuration says now and its registrar asked."""
        namespace = self.namespaces.get(spec.target)
        # What a gateway keeps has its own policy from there.
        usual = spec.policy if namespace is None else namespace.policy
        return replace(spec, policy=self._policy(usual, spec.kind, spec.owner, spec.context))

    def operation(self, request: FollowRequest) -> tuple[OperationSpec, PollAnswer | None]:
        """The operation that is asked for, and its first answer where the caller brought it. Raises `UsageError`."""
        name = _choose(request.account, self.accounts, "account")
        prepared = self.accounts[name].target.prepare(request.how, request.request, request.terms)
        asked: dict[str, float | None] = {}
        if request.deadline_s is not None:
            asked["deadline_s"] = request.deadline_s
        if request.early_probe_s is not None:
            asked["early_probe_s"] = request.early_probe_s or None
        context: dict[str, Any] = {"asked": asked} if asked else {}
        self._add_context(context, request.callback, request.idempotency)
        spec = OperationSpec(
            id=OperationId(f"op-{secrets.token_hex(8)}"),
            account=name,
            request=prepared.request,
            retry_safe=prepared.retry_safe,
            labels=dict(request.labels) if request.labels else _NO_LABELS,
            context=context or _NO_CONTEXT,
        )
        return self.with_poll_policy(spec), prepared.first

    def with_poll_policy(self, spec: OperationSpec) -> OperationSpec:
        """The operation, followed as the configuration says now and its registrar asked."""
        return replace(spec, policy=self.poll_policy(spec.account, spec.context))

    def poll_policy(self, account: str, context: Mapping[str, Any]) -> PollPolicy:
        """How operations of this account and context are followed: most of them share the account's own policy."""
        known = self.accounts.get(account)
        policy = PollPolicy() if known is None else known.policy
        asked = context.get("asked")
        return replace(policy, **asked) if asked else policy

    def note(self, spec: LeaseSpec | OperationSpec) -> None:
        """Know what is registered by its lock, and by its Idempotency-Key."""
        if isinstance(spec, LeaseSpec) and (lock := _lock_of(spec)) is not None:
            self._by_lock[lock] = spec.id
        if (asked := spec.context.get("idempotency")) is not None:
            self._by_idempotency[type(spec), asked["key"]] = spec.id

    def drop(self, spec: LeaseSpec | OperationSpec) -> None:
        """It is forgotten."""
        if isinstance(spec, LeaseSpec) and (lock := _lock_of(spec)) is not None and self._by_lock.get(lock) == spec.id:
            del self._by_lock[lock]
        if (asked := spec.context.get("idempotency")) is not None:
            by_key = type(spec), asked["key"]
            if self._by_idempotency.get(by_key) == spec.id:
                del self._by_idempotency[by_key]

    def on_same_lock(self, spec: LeaseSpec) -> LeaseId | None:
        """The lease that was last registered on the same session or message; two would only fight."""
        lock = _lock_of(spec)
        return None if lock is None else self._by_lock.get(lock)

    def lease_asked_before(self, idempotency: Idempotency | None) -> LeaseId | None:
        """The lease that was registered with this Idempotency-Key."""
        found = None if idempotency is None else self._by_idempotency.get((LeaseSpec, idempotency.key))
        return None if found is None else LeaseId(found)

    def operation_asked_before(self, idempotency: Idempotency | None) -> OperationId | None:
        """The operation that was registered with this Idempotency-Key."""
        found = None if idempotency is None else self._by_idempotency.get((OperationSpec, idempotency.key))
        return None if found is None else OperationId(found)

    @staticmethod
    def _policy(usual: RenewalPolicy, kind: LeaseKind, owner: Owner, context: Mapping[str, Any]) -> RenewalPolicy:
        policy = usual
        if asked := context.get("asked"):
            policy = replace(policy, **asked)
        if owner.kind is not OwnerKind.NONE:
            # Its owner waits for as long as it wants to, and is noticed when it does not any longer.
            policy = replace(policy, acquire_timeout_s=_PATIENT_S)
        if kind is LeaseKind.MESSAGE:
            # Who has a message's token can renew it and no more: lost is lost.
            policy = replace(policy, reacquire=False)
        return policy

    def _add_context(self, context: dict[str, Any], callback: str | None, idempotency: Idempotency | None) -> None:
        if callback is not None:
            if self._check_callback is None:
                raise UsageError("callback: this daemon sends none")
            self._check_callback(callback)
            context["callback"] = callback
        if idempotency is not None:
            context["idempotency"] = {"key": idempotency.key, "fingerprint": idempotency.fingerprint}


class Forgetting:
    """A hook that has the registrar forget what is forgotten, however that came about."""

    def __init__(self, registrar: Registrar) -> None:
        self._registrar = registrar

    def lease(self, news: TellLease) -> None:
        """Let go of a lease's lock and key."""
        if news.news is LeaseNews.FORGOTTEN:
            self._registrar.drop(news.spec)

    def renewed(self, news: Sequence[TellLease]) -> None:
        """They live on."""

    def operation(self, news: TellOperation) -> None:
        """Let go of an operation's key."""
        if news.news is OperationNews.FORGOTTEN:
            self._registrar.drop(news.spec)


def is_same_wish(spec: LeaseSpec, other: LeaseSpec) -> bool:
    """Whether two who want these leases want the same thing, and none of them its own.

    Who names an owner wants the lock for itself; who names none wants it kept, by whomever it was asked for.
    """
    return (
        spec.owner == other.owner == NO_OWNER
        and (spec.lock_duration_s, spec.labels) == (other.lock_duration_s, other.labels)
        and all((spec.context.get(name) or None) == (other.context.get(name) or None) for name in ("asked", "callback"))
    )


def check_same(idempotency: Idempotency | None, spec: LeaseSpec | OperationSpec) -> None:
    """Raise `UsageError` if the same Idempotency-Key came with another request before."""
    if idempotency is not None and spec.context["idempotency"]["fingerprint"] != idempotency.fingerprint:
        raise UsageError(
            f"Idempotency-Key: was used for another request before, which made {spec.id}; a new request needs a new key"
        )


def _lock_token(text: str) -> str:
    # What knows Service Bus is loaded where a namespace is configured.
    from renewer.targets.servicebus import parse_lock_token

    return str(parse_lock_token(text))


def _lock_of(spec: LeaseSpec) -> _Lock | None:
    what = spec.session_id if spec.kind is LeaseKind.SESSION else spec.lock_token
    return None if what is None else (spec.target, sys.intern(spec.entity.lower()), spec.kind, what)


def _choose(given: str | None, known: Mapping[str, object], field: str) -> str:
    """The name given, or the only one there is."""
    if given is None and len(known) == 1:
        return next(iter(known))
    # Sections are called by their whole name, fabric.main; the last part alone will do where it is clear.
    meant = [name for name in known if given in (name, name.partition(".")[2])]
    if given and len(meant) == 1:
        return meant[0]
    if not known:
        raise UsageError(f"{field}: the configuration has none; add one and restart")
    names = ", ".join(sorted(known))
    raise UsageError(f"{field}: name one of those configured: {names}" + (f" (not {given!r})" if given else ""))
