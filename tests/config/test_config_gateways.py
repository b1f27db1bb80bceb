"""`[[gateway]]`: where workers come in, who may, and what is done with their locks."""

from __future__ import annotations

import json
import re
from itertools import product
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from renewer.config.gatewaychecks import key_problem, patterns_meet
from renewer.daemon.build import gateway_options
from renewer.gateway.options import EntityPolicy, TcpAddress, UnixAddress
from tests.config.test_config_namespaces import write_pem

if TYPE_CHECKING:
    from renewer.errors import ConfigProblem
    from renewer.gateway.options import GatewayOptions
    from tests.config.conftest import ConfigFile

MAIN = "[servicebus.main]\nconnection_string = '$CONNECTION'\n"
SECRET = "c2VjcmV0LW9mLXdvcmtlcnM="
LISTEN = "listen = '127.0.0.1:5673'\n"
KEY = f"[[gateway.key]]\nname = 'local'\nkey = '{SECRET}'\nentities = ['orders', 'events/Subscriptions/*']\n"
GATEWAY = f"[[gateway]]\n{LISTEN}"


def mistakes(config: ConfigFile, text: str, environ: dict[str, str] | None = None) -> dict[str, str]:
    """What is said of each key that is wrong."""
    found: list[ConfigProblem] = config.problems(MAIN + text, environ=environ)
    assert SECRET not in str(found)
    return {problem.key: problem.remedy for problem in found}


def options(config: ConfigFile, text: str, environ: dict[str, str] | None = None) -> list[GatewayOptions]:
    return gateway_options(config.load(MAIN + text, environ=environ), environ or {})


# What it turns into ---------------------------------------------------------------------------------------------------


def test_a_gateway_needs_a_key_and_the_rest_has_defaults(config: ConfigFile) -> None:
    (found,) = options(config, GATEWAY + KEY)
    assert (found.name, found.listen) == ("main", TcpAddress("127.0.0.1", 5673))
    assert (found.namespace.host, found.namespace.emulator) == ("127.0.0.1", True)
    assert [(key.name, key.key, key.entities) for key in found.keys] == [
        ("local", SECRET, ("orders", "events/Subscriptions/*"))
    ]
    assert found.policies == (EntityPolicy(),)
    assert (found.max_connections, found.login_timeout_s, found.token_leniency_s) == (1000, 20.0, 300.0)
    assert found.renewal.reacquire is False
    assert SECRET not in repr(found)


def test_signatures_of_workers_can_be_held_to_their_end(config: ConfigFile) -> None:
    (found,) = options(config, f"{GATEWAY}token_leniency = '0s'\n{KEY}")
    assert found.token_leniency_s == 0.0
    (problem,) = config.problems(f"{MAIN}{GATEWAY}token_leniency = '2h'\n{KEY}")
    assert (problem.key, problem.remedy) == ("gateway[0].token_leniency", "must be a duration from 0s to 1h")


def test_where_no_address_is_given_it_is_the_port_of_amqp(config: ConfigFile) -> None:
    elsewhere = MAIN.replace("$CONNECTION", "Endpoint=sb://a.b.net;SharedAccessKeyName=n;SharedAccessKey=k")
    (found,) = gateway_options(config.load(f"{elsewhere}[[gateway]]\n{KEY}"), {})
    assert found.listen == TcpAddress("127.0.0.1", 5672)


def test_rules_for_entities_take_what_they_leave_out_from_those_for_all(config: ConfigFile) -> None:
    (found,) = options(
        config,
        GATEWAY + "show_lock_until = ' True'\n" + KEY + "[gateway.renew]\nmessages = false\nmax_duration = '4h'\n"
        "[[gateway.entity]]\nentity = 'orders'\nsessions = false\n"
        "[[gateway.entity]]\nentity = 'events/*/audit-*'\nmessages = true\nmax_duration = '10m'\n"
        "show_lock_until = 'extended'\n",
    )
    assert found.policies == (
        EntityPolicy("orders", sessions=False, messages=False, max_duration_s=14_400, show_lock_until="true"),
        EntityPolicy("events/*/audit-*", messages=True, max_duration_s=600),
        EntityPolicy("*", messages=False, max_duration_s=14_400, show_lock_until="true"),
    )


def test_a_rule_can_keep_locks_for_longer_than_those_of_all_others_or_for_ever(config: ConfigFile) -> None:
    (found,) = options(
        config,
        f"[renewal]\nmax_duration = '2h'\n{GATEWAY}{KEY}[gateway.renew]\nmax_duration = '4h'\n"
        "[[gateway.entity]]\nentity = 'orders'\nmax_duration = '1d'\n"
        "[[gateway.entity]]\nentity = 'events/Subscriptions/*'\nmax_duration = 'off'\n",
    )
    assert [policy.max_duration_s for policy in found.policies] == [86_400, None, 14_400]


def test_the_gateway_can_lift_what_is_the_longest_for_all_leases(config: ConfigFile) -> None:
    (found,) = options(
        config,
        f"[renewal]\nmax_duration = '2h'\n{GATEWAY}{KEY}[gateway.renew]\nmax_duration = 'Off'\n"
        "[[gateway.entity]]\nentity = 'orders'\nmax_duration = '10m'\n",
    )
    assert [policy.max_duration_s for policy in found.policies] == [600, None]


@pytest.mark.parametrize("given", ["'never'", "'500ms'", "'366d'", "false", "0", "''"])
def test_the_longest_that_a_lock_is_kept_is_a_duration_or_off(config: ConfigFile, given: str) -> None:
    text = f"{MAIN}{GATEWAY}{KEY}[[gateway.entity]]\nentity = 'orders'\nmax_duration = {given}\n"
    (problem,) = config.problems(text)
    assert problem.key == "gateway[0].entity[0].max_duration"
    assert 'from 1s to 365d, or "off"' in problem.remedy


def test_the_longest_that_a_lock_is_kept_is_that_of_all_leases_unless_the_gateway_says(config: ConfigFile) -> None:
    (found,) = options(config, f"[renewal]\nmax_duration = '2h'\n{GATEWAY}{KEY}")
    assert found.policies[0].max_duration_s == 7200


def test_keys_come_from_files_and_variables(config: ConfigFile) -> None:
    (config.folder / "gateway.key").write_text(f"{SECRET}\n")
    other = KEY.replace(f"key = '{SECRET}'", "key_env = 'WORKERS'").replace("local", "other")
    (found,) = options(
        config, GATEWAY + KEY.replace(f"key = '{SECRET}'", "key_file = 'gateway.key'") + other, {"WORKERS": SECRET * 2}
    )
    assert [(key.name, key.key) for key in found.keys] == [("local", SECRET), ("other", SECRET * 2)]


def test_a_unix_socket_and_a_certificate_are_ways_to_listen(config: ConfigFile) -> None:
    write_pem(config.folder / "both.pem")
    text = GATEWAY.replace(LISTEN, "listen = '0.0.0.0:5673'\ntls_cert_file = 'both.pem'\nname = 'far'\n") + KEY
    text += GATEWAY.replace(LISTEN, "listen = 'unix:var/gateway.sock'\nsocket_mode = '0600'\n") + KEY
    far, near = options(config, text)
    assert (far.name, far.listen) == ("far", TcpAddress("0.0.0.0", 5673, "both.pem"))
    assert (near.name, near.listen) == ("main", UnixAddress("var/gateway.sock", 0o600))


def test_a_gateway_can_come_from_the_environment_whole_or_in_part(config: ConfigFile) -> None:
    whole = [{"listen": "127.0.0.1:5673", "key": [{"name": "a", "key": SECRET, "entities": ["*"]}]}]
    (found,) = options(config, "", {"RENEWER_GATEWAY": json.dumps(whole)})
    assert (found.keys[0].name, found.keys[0].entities) == ("a", ("*",))
    part = {"RENEWER_GATEWAY__0__KEY__0__KEY": SECRET * 2, "RENEWER_GATEWAY__0__RENEW__SESSIONS": "false"}
    (found,) = options(config, GATEWAY + KEY, part)
    assert (found.keys[0].key, found.policies[0].sessions) == (SECRET * 2, False)
    flags = {"gateway[0].key[0].name": "flagged", "gateway[0].renew.messages": False}
    (gateway,) = config.load(MAIN + GATEWAY + KEY, overrides=flags).gateway
    assert (gateway.key[0].name, gateway.renew.messages) == ("flagged", False)


# What is wrong --------------------------------------------------------------------------------------------------------


def test_every_mistake_is_told_at_once_with_its_line(config: ConfigFile) -> None:
    text = (
        "[[gateway]]\nlisten = '5672'\nshow_lock_untill = 'true'\n[[gateway.key]]\nname = 'a b'\nkey = 'x'\n"
        "entities = []\n[[gateway.entity]]\nsessions = 3\n[gateway.renew]\nmax_duration = '0s'\n"
    )
    found = {problem.key: problem for problem in config.problems(MAIN + text)}
    assert found.keys() == {
        "gateway[0].listen",
        "gateway[0].show_lock_untill",
        "gateway[0].key[0].name",
        "gateway[0].key[0].key",
        "gateway[0].key[0].entities",
        "gateway[0].entity[0].entity",
        "gateway[0].entity[0].sessions",
        "gateway[0].renew.max_duration",
    }
    assert found["gateway[0].listen"].where == "config.toml:4"
    assert found["gateway[0].key[0].name"].where == "config.toml:7"
    assert "did you mean show_lock_until?" in found["gateway[0].show_lock_untill"].remedy
    assert found["gateway[0].key[0].key"].value == "***"


@pytest.mark.parametrize(
    ("text", "key", "remedy"),
    [
        ("gateway = 'x'", "gateway", "[[gateway]]"),
        ("gateway = ['x']", "gateway[0]", "table"),
        ("gateway = [{ key = 'x' }]", "gateway[0].key", "[[gateway.key]]"),
        ("[gateway]\nlisten = 'x'", "gateway", "[[gateway]]"),
        ("[[gateway]]\nsessions = true", "gateway[0].sessions", "[gateway.renew]"),
        ("[[gateway]]\nkey_file = 'x'", "gateway[0].key_file", "[[gateway.key]]"),
        ("[[gateway]]\ncolour = 'x'", "gateway[0].colour", "known in [gateway[0]]"),
        (f"[[gateway]]\n[[gateway.key]]\nname = 'a'\nkey = '{SECRET}'", "gateway[0].key[0].entities", "a list of"),
    ],
)
def test_what_is_in_the_wrong_place_is_told_where_it_belongs(
    config: ConfigFile, text: str, key: str, remedy: str
) -> None:
    found = {problem.key: problem.remedy for problem in config.problems(f"{text}\n{MAIN}")}
    assert remedy in found[key]


def test_an_address_that_others_can_reach_needs_a_certificate(config: ConfigFile) -> None:
    for address in ("0.0.0.0:5673", "[::]:5673", "10.0.0.5:5673", "gateway.example:5673"):
        found = mistakes(config, GATEWAY.replace("127.0.0.1:5673", address) + KEY)
        assert list(found) == ["gateway[0].listen"]
        assert "tls_cert_file" in found["gateway[0].listen"]
    for address in ("localhost:5673", "[::1]:5673", "127.9.9.9:5673", "unix:a.sock"):
        assert mistakes(config, GATEWAY.replace("127.0.0.1:5673", address) + KEY) == {}


def test_a_certificate_comes_with_its_key(config: ConfigFile) -> None:
    write_pem(config.folder / "cert.pem", with_key=False)
    write_pem(config.folder / "both.pem")
    write_pem(config.folder / "locked.pem", encrypted=True)
    (config.folder / "text.pem").write_text("nothing")
    tls = "[[gateway]]\nlisten = '0.0.0.0:5673'\n"
    assert mistakes(config, f"{tls}tls_cert_file = 'both.pem'\n{KEY}") == {}
    for name, word in (("cert.pem", "missing"), ("locked.pem", "not encrypted"), ("text.pem", "PEM")):
        found = mistakes(config, f"{tls}tls_cert_file = '{name}'\n{KEY}")
        assert word in found["gateway[0].tls_cert_file"]
    found = mistakes(config, f"{tls}tls_cert_file = 'cert.pem'\ntls_key_file = 'both.pem'\n{KEY}")
    assert "tls_key_file" in found["gateway[0].tls_cert_file"]
    found = mistakes(config, f"{tls}tls_cert_file = 'both.pem'\ntls_key_file = 'gone.pem'\n{KEY}")
    assert "readable" in found["gateway[0].tls_key_file"]
    found = mistakes(config, f"{GATEWAY}tls_key_file = 'both.pem'\n{KEY}")
    assert "tls_cert_file" in found["gateway[0].tls_key_file"]


def test_settings_of_the_other_kind_of_address_are_mistakes(config: ConfigFile) -> None:
    write_pem(config.folder / "both.pem")
    found = mistakes(config, f"[[gateway]]\nlisten = 'unix:a.sock'\ntls_cert_file = 'both.pem'\n{KEY}")
    assert "no effect" in found["gateway[0].tls_cert_file"]
    found = mistakes(config, f"{GATEWAY}socket_group = 'root'\n{KEY}")
    assert found.keys() == {"gateway[0].socket_group"}
    inside = "[[gateway]]\nlisten = 'unix:./var/a.sock'\nsocket_group = '0'\n"
    assert "would reach nobody" in mistakes(config, inside + KEY)["gateway[0].socket_group"]


@pytest.mark.parametrize(
    ("other", "called"),
    [
        (f"[[gateway]]\nname = 'b'\n{LISTEN}{KEY}", "gateway[0].listen"),
        ("[metrics]\nlisten = 'localhost:5673'\n", "metrics.listen"),
        ("[api]\nlisten = 'tcp:127.0.0.1:5673'\n", "api.listen"),
    ],
)
def test_nothing_else_listens_where_a_gateway_does(config: ConfigFile, other: str, called: str) -> None:
    (remedy,) = mistakes(config, GATEWAY + KEY + other).values()
    assert called in remedy


def test_two_sockets_of_one_path_are_one(config: ConfigFile) -> None:
    text = "[api]\nlisten = 'unix:./a.sock'\n[[gateway]]\nlisten = 'unix:a.sock'\n"
    assert "api.listen" in mistakes(config, text + KEY)["gateway[0].listen"]
    assert mistakes(config, GATEWAY.replace("5673", "0") + KEY + GATEWAY.replace("5673", "0\nname = 'b") + KEY) != {}


def test_ports_that_the_system_chooses_do_not_collide(config: ConfigFile) -> None:
    text = "[[gateway]]\nlisten = '127.0.0.1:0'\n"
    assert mistakes(config, f"{text}{KEY}{text}name = 'b'\n{KEY}") == {}


def test_a_gateway_does_not_call_itself(config: ConfigFile) -> None:
    found = mistakes(config, f"[[gateway]]\n{KEY}")
    assert "would call itself" in found["gateway[0].listen"]


def test_names_of_gateways_are_unique(config: ConfigFile) -> None:
    found = mistakes(config, GATEWAY + KEY + GATEWAY.replace("5673", "5674") + KEY)
    assert "name of its own" in found["gateway[1]"]
    second = GATEWAY.replace("5673", "5674") + "name = 'main'\n"
    assert mistakes(config, GATEWAY + KEY + second + KEY).keys() == {"gateway[1].name"}


def test_a_gateway_is_on_a_namespace_that_speaks_amqp(config: ConfigFile) -> None:
    found = mistakes(config, f"{GATEWAY}servicebus = 'mian'\n{KEY}")
    assert "did you mean main?" in found["gateway[0].servicebus"]
    found = mistakes(config, MAIN.replace("main", "other") + GATEWAY + KEY)
    assert "main, other" in found["gateway[0]"]
    found = mistakes(config, f'transport = "rest"\nlock_duration = "30s"\n{GATEWAY}{KEY}')
    assert "rest" in found["gateway[0]"]


# Keys -----------------------------------------------------------------------------------------------------------------


def test_a_gateway_without_a_key_lets_nobody_in(config: ConfigFile) -> None:
    assert "renewer gateway key" in mistakes(config, GATEWAY)["gateway[0]"]
    missing = KEY.replace(f"key = '{SECRET}'\n", "")
    assert "needs one of key" in mistakes(config, GATEWAY + missing)["gateway[0].key[0]"]
    twice = KEY + "key_env = 'X'\n"
    assert "one too many" in mistakes(config, GATEWAY + twice)["gateway[0].key[0].key_env"]
    gone = KEY.replace(f"key = '{SECRET}'", "key_file = 'gone.key'")
    assert "readable" in mistakes(config, GATEWAY + gone)["gateway[0].key[0].key_file"]


def test_keys_have_names_and_secrets_of_their_own(config: ConfigFile) -> None:
    found = mistakes(config, GATEWAY + KEY + KEY.replace("local", "Local"))
    assert "taken" in found["gateway[0].key[1].name"]
    assert "the same key" in found["gateway[0].key[1]"]
    other = KEY.replace(SECRET, SECRET[::-1]).replace("local", "other")
    assert mistakes(config, GATEWAY + KEY + other) == {}


@pytest.mark.parametrize("key", ["SAS_KEY_VALUE", "a" * 40, "short", "with spaces in it, many", "semi;colon;0123456"])
def test_a_key_that_can_be_guessed_or_not_be_carried_is_refused(config: ConfigFile, key: str) -> None:
    assert mistakes(config, GATEWAY + KEY.replace(SECRET, key)).keys() == {"gateway[0].key[0].key"}
    assert key_problem(key) is not None
    assert key_problem("ä" * 8 + "abcdefgh") is not None
    assert key_problem("0123456789abcdef" * 17) is not None
    assert key_problem(SECRET) is None


@pytest.mark.parametrize("name", ["", "a b", "a;b", "a=b", "a/b", "ä", "-a", "a" * 64])
def test_the_name_of_a_key_is_a_word(config: ConfigFile, name: str) -> None:
    assert "SharedAccessKeyName" in mistakes(config, GATEWAY + KEY.replace("local", name))["gateway[0].key[0].name"]


# Entities -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern",
    ["", "/orders", "orders/", "a//b", "$cbs", "orders/$management", "sb://x/orders", "a/../b", "a b ", "é%2f"],
)
def test_entities_are_names_and_patterns(config: ConfigFile, pattern: str) -> None:
    text = KEY.replace("['orders'", f"['orders', '{pattern}'")
    found = mistakes(config, GATEWAY + text)
    assert "wrong: number 2" in found["gateway[0].key[0].entities"]
    rule = f"[[gateway.entity]]\nentity = '{pattern}'\n"
    assert mistakes(config, GATEWAY + KEY + rule).keys() == {"gateway[0].entity[0].entity"}


def test_a_rule_that_can_never_count_is_a_mistake(config: ConfigFile) -> None:
    def rules(*patterns: str) -> dict[str, str]:
        return mistakes(
            config, GATEWAY + KEY + "".join(f"[[gateway.entity]]\nentity = '{each}'\n" for each in patterns)
        )

    assert rules("ORDERS", "events/*/a", "*") == {}
    assert "no key" in rules("order")["gateway[0].entity[0].entity"]
    assert "no key" in rules("orders", "events")["gateway[0].entity[1].entity"]
    assert "entity[0] covers it" in rules("*", "orders")["gateway[0].entity[1].entity"]
    assert "entity[1] covers it" in rules("events/*/a", "orders", "Orders")["gateway[0].entity[2].entity"]


@given(st.text(alphabet="ab*", min_size=1, max_size=4), st.text(alphabet="ab*", min_size=1, max_size=4))
def test_patterns_meet_where_some_name_fits_both(one: str, other: str) -> None:
    names = ["".join(letters) for length in range(9) for letters in product("ab", repeat=length)]
    fits = [re.compile(pattern.replace("*", ".*")) for pattern in (one, other)]
    assert patterns_meet(f"x/{one}", f"x/{other}") == any(all(fit.fullmatch(name) for fit in fits) for name in names)
