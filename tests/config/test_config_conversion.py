"""What settings turn into."""

from __future__ import annotations

from typing import TYPE_CHECKING

from renewer.config import FabricSettings, Settings
from renewer.core.timing import PollPolicy, RenewalPolicy

if TYPE_CHECKING:
    from tests.config.conftest import ConfigFile

MAIN = '[servicebus.main]\nconnection_string = "$CONNECTION"\n'


def test_default_settings_are_the_default_policies() -> None:
    assert Settings().renewal_policy() == RenewalPolicy()
    assert FabricSettings().poll_policy() == PollPolicy()


def test_renewal_settings_become_the_policy(config: ConfigFile) -> None:
    text = "\n".join(
        [
            "[renewal]",
            "due_fraction = 0.3",
            "jitter = 0.2",
            "max_interval = '3m'",
            "attempt_fraction = 0.3",
            "max_attempt = '2s'",
            "backoff_cap = '5s'",
            "reacquire = false",
            "max_duration = '1h'",
        ]
    )
    assert config.load(text).renewal_policy() == RenewalPolicy(
        due_fraction=0.3,
        jitter=0.2,
        max_interval_s=180.0,
        attempt_fraction=0.3,
        max_attempt_s=2.0,
        backoff_cap_s=5.0,
        reacquire=False,
        max_duration_s=3600.0,
    )


def test_leases_on_a_namespace_are_kept_by_the_shared_policy(config: ConfigFile) -> None:
    assert config.load(MAIN).renewal_policy("main") == RenewalPolicy()
    assert config.load("[renewal]\njitter = 0\n" + MAIN).renewal_policy("main") == RenewalPolicy(jitter=0.0)


def test_an_acquisition_is_not_given_up_while_the_broker_may_still_wait(config: ConfigFile) -> None:
    settings = config.load(MAIN + "next_session_timeout = '5m'\nconnect_timeout = '20s'\n")
    policy = settings.renewal_policy("main")
    assert (policy.acquire_attempt_s, policy.acquire_timeout_s) == (320.0, 300.0)


def test_a_session_finds_its_namespace(config: ConfigFile) -> None:
    settings = config.load(MAIN + "[[session]]\nentity = 'a'\n[[session]]\nservicebus = 'main'\nentity = 'a'\n")
    assert [settings.servicebus_name(session) for session in settings.session] == ["main", "main"]


def test_fabric_settings_become_the_policy(config: ConfigFile) -> None:
    text = "\n".join(
        [
            "[fabric.main]",
            "poll_floor = '2s'",
            "poll_ceiling = '2h'",
            "default_interval = '20s'",
            "not_found_grace = '1m'",
            "keep_ended = '2h'",
            "deadline = '2d'",
            "request_timeout = '30s'",
            "fetch_timeout = '5m'",
        ]
    )
    assert config.load(text).fabric["main"].poll_policy() == PollPolicy(
        floor_s=2.0,
        ceiling_s=7200.0,
        default_interval_s=20.0,
        not_found_grace_s=60.0,
        retention_s=7200.0,
        deadline_s=172_800.0,
        attempt_s=30.0,
        fetch_s=300.0,
    )


def test_the_url_of_a_service_is_kept_without_its_last_slash(config: ConfigFile) -> None:
    settings = config.load("[fabric.main]\nbase_url = 'http://localhost:8323/v1/'\n")
    assert settings.fabric["main"].base_url == "http://localhost:8323/v1"
