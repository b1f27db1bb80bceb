"""What a new configuration changes now, and what waits for a restart."""

from __future__ import annotations

from typing import Any

from renewer.config import Settings, load
from renewer.config.shape import all_keys
from renewer.daemon.reload import APPLIED_NOW, plan_reload, with_namespaces_named

FIXED_AT_START = {
    "daemon.state_dir",
    "daemon.event_loop",
    "api.listen",
    "api.socket_mode",
    "api.socket_group",
    "metrics.listen",
    "metrics.page",
    "registry.synchronous",
    "registry.inline_result",
    "renewal.concurrency",
    *(
        f"servicebus.NAME.{key}"
        for key in (
            "connection_string",
            "connection_string_file",
            "connection_string_env",
            "fully_qualified_namespace",
            "credential",
            "tenant_id",
            "client_id",
            "client_secret",
            "client_secret_file",
            "client_secret_env",
            "certificate_file",
            "transport",
            "proxy",
            "lock_duration",
            "assumed_lock_duration",
            "ca_file",
            "connect_timeout",
            "idle_timeout",
            "sessions_per_connection",
            "spread_after",
            "max_connections",
            "message_batch",
            "links_per_session",
            "next_session_timeout",
            "message_size_limit",
        )
    ),
    *(
        f"{group}.NAME.{key}"
        for group in ("fabric", "azure")
        for key in (
            "base_url",
            "allow_hosts",
            "token",
            "token_file",
            "token_env",
            "credential",
            "tenant_id",
            "client_id",
            "client_secret",
            "client_secret_file",
            "client_secret_env",
            "certificate_file",
            "scope",
            "max_result",
            "concurrency",
            "limits",
        )
    ),
}
SECRET = "Endpoint=sb://127.0.0.1;SharedAccessKeyName=n;SharedAccessKey={};UseDevelopmentEmulator=true"
BASE: dict[str, Any] = {"servicebus": {"main": {"connection_string": SECRET.format("aaaa")}}}


def settings(*changes: dict[str, Any]) -> Settings:
    merged: dict[str, Any] = {}
    for change in (BASE, *changes):
        for section, content in change.items():
            merged[section] = {**merged.get(section, {}), **content} if isinstance(content, dict) else content
    return load(None, environ={}, overrides=merged)


def test_every_setting_is_either_applied_at_once_or_fixed_at_the_start() -> None:
    known = {
        f"{section.strip('[]')}.{key}"
        for section, key in all_keys()
        if not section.startswith(("[[", "[gateway.")) and not section.endswith(".limits]")
    }
    assert known - APPLIED_NOW - FIXED_AT_START == set(), "say in renewer/daemon/reload.py, or here, which they are"
    assert not APPLIED_NOW & FIXED_AT_START


def test_the_same_settings_change_nothing() -> None:
    session = {"session": [{"entity": "orders", "session_id": "a"}, {"entity": "orders"}]}
    plan = plan_reload(settings(session), settings(session))
    assert plan.is_empty
    again = plan_reload(plan.settings, settings(session))
    assert again.is_empty


def test_what_is_looked_up_when_needed_changes_at_once() -> None:
    new = settings(
        {
            "daemon": {"log_level": "debug", "log_format": "json", "stop_timeout": "20s"},
            "renewal": {"jitter": 0.2, "max_duration": "4h"},
            "fabric": {"main": {"token": "t", "poll_floor": "2s", "keep_ended": "2d"}},
        }
    )
    plan = plan_reload(settings({"fabric": {"main": {"token": "t"}}}), new)
    assert {str(change) for change in plan.now} == {
        'daemon.log_level: "info" → "debug"',
        'daemon.log_format: "auto" → "json"',
        "daemon.stop_timeout: 10s → 20s",
        "renewal.jitter: 0.1 → 0.2",
        "renewal.max_duration: absent → 4h",
        "fabric.main.poll_floor: 1s → 2s",
        "fabric.main.keep_ended: 1d → 2d",
    }
    assert plan.restart == ()
    assert plan.settings == new
    assert plan.settings.renewal_policy("main") == new.renewal_policy("main")
    assert plan.settings.fabric["main"].poll_policy() == new.fabric["main"].poll_policy()


def test_what_listens_connects_or_keeps_state_waits_for_a_restart_and_is_named_again_next_time() -> None:
    old = settings()
    new = settings(
        {
            "daemon": {"state_dir": "/elsewhere", "log_level": "debug"},
            "metrics": {"listen": "off"},
            "api": {"socket_mode": "0600"},
            "renewal": {"concurrency": 7},
            "servicebus": {
                "main": {"connection_string": SECRET.format("aaaa"), "idle_timeout": "30s"},
                "second": {"connection_string": SECRET.format("aaaa")},
            },
        }
    )
    plan = plan_reload(old, new)
    waiting = {str(change) for change in plan.restart}
    assert waiting == {
        'daemon.state_dir: "var" → "/elsewhere"',
        "metrics.listen: tcp:127.0.0.1:9464 → absent",
        "api.socket_mode: 0660 → 0600",
        "renewal.concurrency: 1024 → 7",
        "servicebus.main.idle_timeout: 1m → 30s",
        "servicebus.second: absent → present",
    }
    assert plan.settings == old.model_copy(update={"daemon": old.daemon.model_copy(update={"log_level": "debug"})})
    again = plan_reload(plan.settings, new)
    assert {str(change) for change in again.restart} == waiting
    assert again.now == ()
    assert plan_reload(plan.settings, settings({"daemon": {"log_level": "debug"}})).is_empty


def test_limits_wait_for_a_restart_and_are_shown_as_people_write_them() -> None:
    before = settings({"azure": {"main": {}}})
    plan = plan_reload(before, settings({"azure": {"main": {"limits": {"reads": "60/1m"}, "early_probe": "2s"}}}))
    assert [str(change) for change in plan.now] == ["azure.main.early_probe: absent → 2s"]
    assert [str(change) for change in plan.restart] == [
        'azure.main.limits: { reads = "off", writes = "off", deletes = "off" } → '
        '{ reads = "60/1m", writes = "off", deletes = "off" }'
    ]
    assert plan.settings.azure["main"].limits == before.azure["main"].limits


def test_secrets_are_never_shown() -> None:
    old = settings({"api": {"key": "old-key"}})
    new = settings(
        {
            "api": {"key": "new-key"},
            "servicebus": {"main": {"connection_string": SECRET.format("bbbb")}},
        }
    )
    plan = plan_reload(old, new)
    assert [str(change) for change in plan.now] == ["api.key (a secret)"]
    assert [str(change) for change in plan.restart] == ["servicebus.main.connection_string (a secret)"]
    shown = repr(plan.now) + repr(plan.restart)
    for secret in ("old-key", "new-key", "aaaa", "bbbb"):
        assert secret not in shown
    assert plan.settings.api.key is not None
    assert plan.settings.api.key.get_secret_value() == "new-key"


def test_an_open_port_keeps_its_key_until_the_address_changes_too() -> None:
    old = settings({"api": {"listen": "tcp:127.0.0.1:8321", "key": "k"}})
    plan = plan_reload(old, settings({"api": {"listen": "unix:/run/renewer.sock"}}))
    assert plan.now == ()
    assert {change.key for change in plan.restart} == {"api.listen", "api.key"}
    assert plan.settings.api == old.api


def session(session_id: str | None = "a", **fields: Any) -> dict[str, Any]:
    return {"entity": "orders"} | ({} if session_id is None else {"session_id": session_id}) | fields


def test_sessions_come_and_go_and_change_their_terms() -> None:
    old = settings({"session": [session("stays"), session("goes"), session("changes", labels={"a": "b"})]})
    new = settings(
        {"session": [session("comes"), session("changes", labels={"a": "c"}), session("stays", servicebus="main")]}
    )
    plan = plan_reload(old, new)
    assert [found.session_id for found in plan.added] == ["comes"]
    assert [found.session_id for found in plan.removed] == ["goes"]
    [(before, after)] = plan.changed
    assert (before.labels, after.labels) == ({"a": "b"}, {"a": "c"})
    assert {found.servicebus for found in (*plan.added, *plan.removed, before, after)} == {"main"}
    assert (plan.now, plan.restart) == ((), ())
    assert plan_reload(plan.settings, new).is_empty


def test_entries_for_the_next_available_session_are_counted() -> None:
    one, other = session(None), session(None, labels={"n": "2"})
    fewer = plan_reload(settings({"session": [one, other, one]}), settings({"session": [other]}))
    assert len(fewer.removed) == 2
    assert all(not found.labels for found in fewer.removed)
    assert (fewer.added, fewer.changed) == ((), ())
    more = plan_reload(settings({"session": [one]}), settings({"session": [other, one, one]}))
    assert sorted(len(found.labels) for found in more.added) == [0, 1]
    assert (more.removed, more.changed) == ((), ())


def test_a_session_on_a_namespace_that_is_new_waits_with_it() -> None:
    old = settings({"session": [session("a")]})
    new = settings(
        {
            "servicebus": {
                "main": {"connection_string": SECRET.format("aaaa")},
                "second": {"connection_string": SECRET.format("aaaa")},
            },
            "session": [session("a", servicebus="main"), session("b", servicebus="second")],
        }
    )
    plan = plan_reload(old, new)
    assert (plan.added, plan.removed, plan.changed) == ((), (), ())
    assert {str(change) for change in plan.restart} == {
        "servicebus.second: absent → present",
        "session orders/b: absent → on servicebus.second",
    }
    assert [found.session_id for found in plan.settings.session] == ["a"]


def test_a_namespace_that_is_taken_out_gives_its_sessions_up_at_once() -> None:
    both = {
        "servicebus": {
            "main": {"connection_string": SECRET.format("aaaa")},
            "second": {"connection_string": SECRET.format("aaaa")},
        }
    }
    old = settings(both, {"session": [session("a", servicebus="main"), session("b", servicebus="second")]})
    plan = plan_reload(old, settings({"session": [session("a")]}))
    assert [found.session_id for found in plan.removed] == ["b"]
    assert [str(change) for change in plan.restart] == ["servicebus.second: present → absent"]
    assert set(plan.settings.servicebus) == {"main", "second"}


def test_sessions_that_stay_are_the_same_before_and_after() -> None:
    start = with_namespaces_named(settings({"session": [session("a"), session(None, labels={"n": "1"})]}))
    plan = plan_reload(start, settings({"session": [session("a"), session(None, labels={"n": "1"}), session("b")]}))
    assert plan.settings.session[:2] == start.session


def test_a_gateway_that_changes_waits_for_a_restart_and_is_told_by_its_name() -> None:
    def gateway(port: int, *, name: str, key: str = "c2VjcmV0LW9mLXdvcmtlcnM", **more: Any) -> dict[str, Any]:
        keys = [{"name": "local", "key": key, "entities": ["orders"]}]
        return {"listen": f"127.0.0.1:{port}", "name": name, "key": keys, **more}

    old = settings({"gateway": [gateway(5673, name="a"), gateway(5674, name="b")]})
    changed = gateway(5673, name="a", key="bm90LXRoZS1zYW1lLWtleQ", renew={"messages": False, "max_duration": "4h"})
    new = settings({"gateway": [gateway(5675, name="c"), changed]})
    plan = plan_reload(old, new)
    assert [str(change) for change in plan.restart] == [
        "gateway.a.key[0].key (a secret)",
        "gateway.a.renew.messages: true → false",
        "gateway.a.renew.max_duration: absent → 4h",
        "gateway.b: present → absent",
        "gateway.c: absent → present",
    ]
    assert plan.settings.gateway == old.gateway
    assert plan_reload(plan.settings, old).is_empty
    assert plan_reload(old, settings({"gateway": [gateway(5674, name="b"), gateway(5673, name="a")]})).is_empty
    (moved,) = plan_reload(old, settings({"gateway": [gateway(5676, name="a"), gateway(5674, name="b")]})).restart
    assert str(moved) == "gateway.a.listen: tcp:127.0.0.1:5673 → tcp:127.0.0.1:5676"
