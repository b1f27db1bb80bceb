"""Reading the configuration again: what takes effect at once, what needs a restart, and a mistake changes nothing.

What is fixed at the start is what listens, what connects, and where state is kept; everything else is looked up when it
is needed, so that a new value is used from then on. Leases and operations that are there keep the terms on which they
were registered. Settings that wait for a restart stay as they are in `ReloadPlan.settings`, so that the next reload
names them again.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread
import structlog
from pydantic import BaseModel

from renewer.daemon.changes import ABSENT, PRESENT, Change, compare_gateways, shown
from renewer.errors import ConfigError, RenewerError

if TYPE_CHECKING:
    from renewer.config import SessionSettings, Settings
    from renewer.daemon.systemd import Notifier
    from renewer.ports import Clock

SUCCESS_METRIC: Final = "renewer_config_last_reload_successful"
"""1 if the configuration was read well last time, 0 if it had mistakes."""

SUCCESS_TIME_METRIC: Final = "renewer_config_last_reload_success_timestamp_seconds"
"""When the configuration was last read well, in seconds since the epoch; the start counts."""

APPLIED_NOW: Final = frozenset(
    {
        "daemon.log_level",
        "daemon.log_format",
        "daemon.stop_timeout",
        "daemon.keep_ended",
        "api.key",
        "api.key_file",
        "api.key_env",
        "api.max_leases",
        "api.max_operations",
        "renewal.due_fraction",
        "renewal.jitter",
        "renewal.max_interval",
        "renewal.attempt_fraction",
        "renewal.max_attempt",
        "renewal.backoff_cap",
        "renewal.reacquire",
        "renewal.max_duration",
        *(
            f"{group}.NAME.{key}"
            for group in ("fabric", "azure")
            for key in (
                "poll_floor",
                "default_interval",
                "poll_ceiling",
                "deadline",
                "not_found_grace",
                "refused_grace",
                "early_probe",
                "keep_ended",
                "request_timeout",
                "fetch_timeout",
            )
        ),
        "callback.allow_hosts",
        "callback.key",
        "callback.key_file",
        "callback.key_env",
        "callback.timeout",
        "callback.give_up",
    }
)
"""Settings whose new value is used at once. Every other one is fixed at the start, save for sessions."""

_API_KEYS: Final = ("key", "key_file", "key_env")

_log = structlog.get_logger("renewer.reload")


@dataclass(frozen=True, slots=True)
class ReloadPlan:
    """What a new configuration changes.

    `settings` are those in force afterwards. Sessions carry the name of their namespace, even where there is but one.
    `changed` holds pairs, old and new, of the same session on other terms.
    """

    settings: Settings
    now: tuple[Change, ...] = ()
    restart: tuple[Change, ...] = ()
    added: tuple[SessionSettings, ...] = ()
    removed: tuple[SessionSettings, ...] = ()
    changed: tuple[tuple[SessionSettings, SessionSettings], ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be done, now or later."""
        return not (self.now or self.restart or self.added or self.removed or self.changed)


def plan_reload(old: Settings, new: Settings) -> ReloadPlan:
    """Compare the settings in force with those just read. Both are valid in themselves."""
    now: list[Change] = []
    restart: list[Change] = []
    merged: dict[str, Any] = {}
    for name in type(old).model_fields:
        if name in ("session", "gateway"):
            continue
        before, after = getattr(old, name), getattr(new, name)
        if isinstance(before, BaseModel):
            merged[name] = _merge_section(name, name, before, after, now, restart)
        elif isinstance(before, dict):
            merged[name] = _merge_group(name, before, after, now, restart)
        elif before != after:
            restart.append(Change(name, shown(before), shown(after)))
    # Workers are connected to them, and keys are read when they begin.
    restart += compare_gateways(old, new)
    _keep_the_door_locked(old, new, merged, now, restart)
    kept = old.model_copy(update=merged)
    held, wanted, waiting = _resolved(old), *_servable(new, kept)
    restart += waiting
    added, removed, changed = _compare_sessions(held, wanted)
    settings = kept.model_copy(update={"session": tuple(wanted)})
    return ReloadPlan(settings, tuple(now), tuple(restart), tuple(added), tuple(removed), tuple(changed))


def with_namespaces_named(settings: Settings) -> Settings:
    """The same settings, each session with the name of its namespace, even where there is but one to choose."""
    return settings.model_copy(update={"session": tuple(_resolved(settings))})


class Reloader:
    """Reads the configuration again when asked, and has what changed applied.

    `read` loads the settings as at the start (it may block, and runs in a thread). `apply` carries out the plan; from
    then on `settings` are the plan's. It may raise a `RenewerError`, and is then taken to have changed nothing.
    """

    def __init__(
        self,
        settings: Settings,
        read: Callable[[], Settings],
        apply: Callable[[ReloadPlan], Awaitable[None]],
        *,
        notifier: Notifier,
        clock: Clock,
    ) -> None:
        self.settings = with_namespaces_named(settings)
        self.last_successful = True
        """For the metric `SUCCESS_METRIC`."""
        self.restart_needed: tuple[str, ...] = ()
        """Settings that were changed, and take effect with a restart."""
        self.last_success_at = clock.utc_now().timestamp()
        """For the metric `SUCCESS_TIME_METRIC`."""
        self._read = read
        self._apply = apply
        self._notifier = notifier
        self._clock = clock
        self._lock = anyio.Lock()

    async def reload(self) -> ReloadPlan | None:
        """Read and apply; None, with everything as it was, if the configuration has mistakes or cannot be applied."""
        async with self._lock:
            self._notifier.reloading()
            status = "the new configuration is not used; see the log"
            try:
                plan = await self._reload()
                if plan is not None:
                    status = "configuration reloaded"
                return plan
            finally:
                # Told in any case: a manager that began the reload waits for its end.
                self._notifier.ready(status)

    async def _reload(self) -> ReloadPlan | None:
        self.last_successful = False
        try:
            new = await anyio.to_thread.run_sync(self._read)
            plan = plan_reload(self.settings, new)
            await self._apply(plan)
        except ConfigError as error:
            for problem in error.problems:
                _log.error(
                    "configuration mistake",
                    where=problem.where,
                    key=problem.key,
                    value=problem.value,
                    remedy=problem.remedy,
                )
            _log.error("configuration not reloaded", mistakes=len(error.problems))
            return None
        except RenewerError as error:
            _log.error("configuration not reloaded", error=str(error))
            return None
        self.settings = plan.settings
        self.restart_needed = tuple(change.key for change in plan.restart)
        self.last_successful = True
        self.last_success_at = self._clock.utc_now().timestamp()
        _tell(plan)
        return plan


def _tell(plan: ReloadPlan) -> None:
    for change in plan.now:
        _log.info("setting changed", key=change.key, before=change.before, after=change.after)
    for change in plan.restart:
        _log.warning("setting needs a restart", key=change.key, before=change.before, after=change.after)
    _log.info(
        "configuration reloaded",
        changed=len(plan.now),
        need_restart=len(plan.restart),
        sessions_added=len(plan.added),
        sessions_removed=len(plan.removed),
        sessions_changed=len(plan.changed),
    )


# Sections -------------------------------------------------------------------------------------------------------------


def _merge_section(
    name: str, rule: str, before: BaseModel, after: BaseModel, now: list[Change], restart: list[Change]
) -> BaseModel:
    """The section as it is in force afterwards; `rule` is its name with NAME for a name of the user's own."""
    taken: dict[str, Any] = {}
    for key in type(before).model_fields:
        old, new = getattr(before, key), getattr(after, key)
        if old == new:
            continue
        change = Change(f"{name}.{key}", shown(old, key), shown(new, key))
        if f"{rule}.{key}" in APPLIED_NOW:
            now.append(change)
            taken[key] = new
        else:
            restart.append(change)
    return before.model_copy(update=taken)


def _merge_group(
    name: str, before: dict[str, Any], after: dict[str, Any], now: list[Change], restart: list[Change]
) -> dict[str, Any]:
    """Named sections: those on both sides one by one; to come or to go they need a restart."""
    restart += [Change(f"{name}.{section}", PRESENT, ABSENT) for section in before if section not in after]
    restart += [Change(f"{name}.{section}", ABSENT, PRESENT) for section in after if section not in before]
    return {
        section: _merge_section(f"{name}.{section}", f"{name}.NAME", settings, after[section], now, restart)
        if section in after
        else settings
        for section, settings in before.items()
    }


def _keep_the_door_locked(
    old: Settings, new: Settings, merged: dict[str, Any], now: list[Change], restart: list[Change]
) -> None:
    """The key belongs to the address: while a new one waits, the port that is open keeps the key it was opened with."""
    if old.api.listen == new.api.listen:
        return
    keys = {key: getattr(old.api, key) for key in _API_KEYS}
    merged["api"] = merged["api"].model_copy(update=keys)
    waiting = [change for change in now if change.key in {f"api.{key}" for key in _API_KEYS}]
    for change in waiting:
        now.remove(change)
        restart.append(change)


# Sessions -------------------------------------------------------------------------------------------------------------

_SessionKey = tuple[str | None, str, str | None, bool]


def _resolved(settings: Settings) -> list[SessionSettings]:
    return [
        session.model_copy(update={"servicebus": settings.servicebus_name(session)}) for session in settings.session
    ]


def _servable(new: Settings, kept: Settings) -> tuple[list[SessionSettings], list[Change]]:
    """The sessions wanted that are on a namespace of this run, and those that wait for a restart with theirs."""
    servable: list[SessionSettings] = []
    waiting: list[Change] = []
    for session in _resolved(new):
        if session.servicebus in kept.servicebus:
            servable.append(session)
        else:
            waiting.append(Change(f"session {_named(session)}", ABSENT, f"on servicebus.{session.servicebus}"))
    return servable, waiting


def _compare_sessions(
    held: list[SessionSettings], wanted: list[SessionSettings]
) -> tuple[list[SessionSettings], list[SessionSettings], list[tuple[SessionSettings, SessionSettings]]]:
    """Those to add, those to give up, and those to keep on other terms.

    Entries for the next available session look alike; as many as are on both sides stay, the equal ones first.
    """
    left: dict[_SessionKey, deque[SessionSettings]] = defaultdict(deque)
    for session in held:
        left[_key(session)].append(session)
    others: list[SessionSettings] = []
    for session in wanted:
        same = left[_key(session)]
        if session in same:
            same.remove(session)
        else:
            others.append(session)
    added: list[SessionSettings] = []
    changed: list[tuple[SessionSettings, SessionSettings]] = []
    for session in others:
        same = left[_key(session)]
        if same:
            changed.append((same.popleft(), session))
        else:
            added.append(session)
    return added, list(_in_order(held, left)), changed


def _in_order(
    held: list[SessionSettings], left: dict[_SessionKey, deque[SessionSettings]]
) -> Iterator[SessionSettings]:
    for session in held:
        same = left[_key(session)]
        if same and same[0] is session:
            yield same.popleft()


def _key(session: SessionSettings) -> _SessionKey:
    return session.servicebus, session.entity.lower(), session.session_id, session.sessions is not None


def _named(session: SessionSettings) -> str:
    return session.entity if session.session_id is None else f"{session.entity}/{session.session_id}"
