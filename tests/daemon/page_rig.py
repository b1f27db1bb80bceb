"""A daemon's leases and operations in every state that the page tells of, made from literal times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from renewer.api.control import EventDocument, GatewayReading, PoolReading, StatusReading, TargetReading
from renewer.core.failing import Trouble
from renewer.core.leases import Lease
from renewer.core.model import LeaseId, LeaseSpec, OperationId, OperationSpec, Owner
from renewer.core.operations import Operation
from renewer.core.past import Loss
from renewer.core.states import LeaseKind, LeaseState, LossReason, OperationState, OwnerKind

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>\u202e\u200b\x00\n\u2028" + "a\u0301" * 40
SECRETS = (
    "lock-token-secret",
    "https://hooks.example.com/secret-path",
    "signature-secret",
    "bearer-secret",
    "eyJhbGciOiJIUzI1NiJ9.payload-secret.mac",
    "request-secret",
    "idempotency-secret",
)


@dataclass
class StandingClock:
    """Both clocks, standing still until they are moved."""

    at: float = 1_000.0

    def now(self) -> float:
        return self.at

    def utc_now(self) -> datetime:
        return NOW + timedelta(seconds=self.at)


@dataclass
class Watched:
    """As much of a control as the page asks for."""

    clock: StandingClock = field(default_factory=StandingClock)
    all_leases: list[Lease] = field(default_factory=list)
    all_operations: list[Operation] = field(default_factory=list)
    news: list[EventDocument] = field(default_factory=list)
    trouble: Sequence[str] = ()
    targets: Sequence[TargetReading] = ()
    pools: Sequence[PoolReading] = ()
    gateways: Sequence[GatewayReading] = ()
    state: str = "ready"
    taken: int = 0

    def leases(self) -> Iterable[Lease]:
        return iter(self.all_leases)

    def operations(self) -> Iterable[Operation]:
        return iter(self.all_operations)

    def latest(self, count: int) -> Sequence[EventDocument]:
        return self.news[:count]

    def status(self) -> StatusReading:
        self.taken += 1
        margins = [lease.min_margin_s for lease in self.all_leases if lease.min_margin_s is not None]
        return StatusReading(
            version="0.0",
            state=self.state,
            started_at=NOW,
            leases=Counter(lease.state.value for lease in self.all_leases),
            operations=Counter(operation.state.value for operation in self.all_operations),
            losses=sum(lease.losses for lease in self.all_leases),
            max_leases=20_000,
            max_operations=20_000,
            loop_lag_s=0.0012,
            registry="sqlite",
            targets=self.targets,
            pools=self.pools,
            gateways=self.gateways,
            trouble=self.trouble,
            min_margin_s=min(margins, default=None),
        )

    def hold(
        self, session_id: str | None, remaining_s: float | None = None, *, loss: Loss | None = None, **options
    ) -> Lease:
        """A lease of which so much is left, or one that is being acquired."""
        number = len(self.all_leases) + 1
        state = options.pop("state", LeaseState.ACQUIRING if remaining_s is None else LeaseState.HELD)
        known = {
            name: options.pop(name)
            for name in ("renewals", "last_margin_s", "min_margin_s", "last_error", "failures", "is_parked", "losses")
            if name in options
        }
        spec = LeaseSpec(
            LeaseId(f"lease-{number}"),
            options.pop("target", "servicebus.main"),
            options.pop("entity", "orders"),
            session_id=session_id,
            **options,
        )
        lease = Lease(spec, self.clock.at - 60, number, **known)
        lease.state = state
        if remaining_s is not None:
            lease.epoch, lease.duration_s = 1, 30.0
            lease.session_id = session_id
            lease.expires_at = self.clock.at + remaining_s
        if loss is not None:
            lease.last_loss, lease.losses = loss, known.get("losses", 1)
        self.all_leases.append(lease)
        return lease

    def follow(self, state: OperationState, **options) -> Operation:
        number = len(self.all_operations) + 1
        known = {
            name: options.pop(name)
            for name in (
                "status", "polls", "poll_errors", "percent_complete", "error", "next_attempt_at", "held_back_by",
                "ended_at",
            )
            if name in options
        }  # fmt: skip
        if "last_poll_error" in options:
            known["trouble"] = Trouble(options.pop("last_poll_error"))
        spec = OperationSpec(
            OperationId(f"op-{number}"), options.pop("account", "fabric.main"), options.pop("request", {}), **options
        )
        operation = Operation(spec, self.clock.at - 90, number, state, **known)
        self.all_operations.append(operation)
        return operation

    def tell(self, kind: str, subject: str, ago_s: float, **data) -> None:
        moment = self.clock.utc_now() - timedelta(seconds=ago_s)
        self.news.append(EventDocument(f"1-{len(self.news) + 1}", kind, moment, subject, data))


def busy() -> Watched:
    """Something of everything."""
    desk = Watched()
    at = desk.clock.at
    desk.targets = [TargetReading("servicebus.main", 3, 412, 0.021), TargetReading("fabric.main")]
    desk.pools = [PoolReading("servicebus.main", "shipments", 8, 3, 1, 4)]
    desk.gateways = [
        GatewayReading("main", "main", "127.0.0.1:5672", 2, 1, {"blue": 2}, {"bad_key": 3}, 4, messages=1_204)
    ]
    desk.trouble = ["servicebus.east: no connection: connection refused; leases that are not held: 12"]
    detached = Loss(1, LossReason.DETACHED, "com.microsoft:session-lock-lost: taken by another receiver", at - 42)
    expired = Loss(2, LossReason.EXPIRED, "the broker gave no answer for a whole lock", at - 620)
    gone = Loss(1, LossReason.OWNER_GONE, "its process has ended", at - 3_700)
    desk.hold("customer-7", -1.25, state=LeaseState.AT_RISK, renewals=812, last_margin_s=4.2, last_error="no answer")
    desk.hold(
        "customer-42", loss=detached, failures=3, last_error="busy: amqp:resource-limit-exceeded", owner=CONNECTED
    )
    desk.hold(None, entity="invoices/Subscriptions/audit")
    desk.hold("bestellung-ä-日本語-שלום", 12.4, renewals=17, last_margin_s=15.1, labels={"team": "blue"})
    desk.hold("customer-1", 3.1, renewals=1_204, last_margin_s=14.9, min_margin_s=9.7, labels={"via": "gateway"})
    desk.hold("customer-99", 22.0, loss=expired, losses=2, renewals=40, last_margin_s=15.2, min_margin_s=12.5)
    message = desk.hold(None, 18.5, kind=LeaseKind.MESSAGE, lock_token=SECRETS[0], sequence_number=90_071)
    message.spec.context["callback"] = SECRETS[1]
    pooled = desk.hold("ship-4", 25.0, entity="shipments", renewals=5, last_margin_s=15.0)
    pooled.spec.context.update(pool="shipments", origin="pool", idempotency={"key": SECRETS[6]})
    desk.hold(HOSTILE[:128], 20.0, labels={HOSTILE[:40]: HOSTILE[:120]})
    desk.hold("", 21.0, entity="empty-id")
    desk.hold("customer-3", loss=gone, state=LeaseState.LOST)
    desk.hold("customer-5", state=LeaseState.RELEASED)
    desk.follow(
        OperationState.RUNNING, status="InProgress", polls=4, percent_complete=35.0, next_attempt_at=at + 12,
        labels={"pipeline": "nightly"}, request={"url": f"https://x/?sig={SECRETS[2]}", "body": SECRETS[5]},
    )  # fmt: skip
    desk.follow(
        OperationState.RUNNING, account="azure.main", status="Updating", polls=31, poll_errors=2,
        next_attempt_at=at - 4, held_back_by="azure.main reads",
        last_poll_error=f"HTTP 503 from https://x/op?code={SECRETS[2]} Authorization: Bearer {SECRETS[3]}",
    )  # fmt: skip
    desk.follow(OperationState.ACCEPTED)
    desk.follow(
        OperationState.FAILED, status="Failed", ended_at=at - 75, polls=9,
        error={"errorCode": "ItemHasProtectedLabel", "message": f"see https://x/?sig={SECRETS[2]} {SECRETS[4]}"},
    )  # fmt: skip
    desk.follow(OperationState.SUCCEEDED, status="Succeeded", ended_at=at - 300, polls=3)
    desk.follow(OperationState.TIMED_OUT, ended_at=at - 8_000, polls=50, error={"message": "deadline"})
    desk.tell("lease.lost", "lease-2", 42, entity="orders", session_id="customer-42", reason="detached", detail="taken")
    desk.tell("operation.failed", "op-4", 75, account="fabric.main", error={"code": "X", "message": SECRETS[4]})
    desk.tell("lease.reacquired", "lease-9", 90, entity="orders", session_id=HOSTILE)
    return desk


CONNECTED = Owner(OwnerKind.CONNECTION, 1.0)
