"""Every mistake at once: where, which key, what stands there, what would be right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from renewer.config import describe_problems, load
from renewer.errors import ConfigError, ConfigProblem

if TYPE_CHECKING:
    from tests.config.conftest import ConfigFile

SECRET = "ToPsEcReT"
MAIN = '[servicebus.main]\nconnection_string = "$CONNECTION"\n'


def test_all_mistakes_are_told_in_one_go_in_the_order_of_the_file(config: ConfigFile) -> None:
    text = "\n".join(
        [
            "[daemon]",
            'log_level = "loud"',
            "stop_timout = 3",
            "[api]",
            'listen = "tcp:0.0.0.0:9464"',
            "[renewal]",
            "due_fraction = 0.9",
            "[servicebus.main]",
            "[[session]]",
            'servicebus = "mainn"',
            'entity = "orders"',
            "[[session]]",
            'session_id = "x"',
            "[fabric.main]",
            'base_url = "http://example.com"',
        ]
    )
    environ = {"RENEWER_DAEMON__LOG_FORMAT": "xml", "RENEWER_DEAMON__LOG_LEVEL": "info"}
    found = config.problems(text, environ=environ, overrides={"renewal.jitter": 7})
    assert [(problem.where, problem.key, problem.value) for problem in found] == [
        ("config.toml:2", "daemon.log_level", '"loud"'),
        ("config.toml:3", "daemon.stop_timout", "3"),
        ("config.toml:5", "api.listen", '"tcp:0.0.0.0:9464"'),
        ("config.toml:5", "api.listen", '"tcp:0.0.0.0:9464"'),
        ("config.toml:7", "renewal.due_fraction", "0.9"),
        ("config.toml:8", "servicebus.main", None),
        ("config.toml:10", "session[0].servicebus", '"mainn"'),
        ("config.toml:12", "session[1].entity", None),
        ("config.toml:15", "fabric.main.base_url", '"http://example.com"'),
        ("environment", "RENEWER_DEAMON__LOG_LEVEL", None),
        ("environment", "RENEWER_DAEMON__LOG_FORMAT", '"xml"'),
        ("flag", "renewal.jitter", "7"),
    ]
    told = "\n".join(problem.remedy for problem in found)
    for remedy in (
        "must be one of debug, info, warning, error",
        "did you mean stop_timeout?",
        "set key, key_file or key_env",
        "another port than metrics.listen, which is 127.0.0.1:9464",
        "from 0.1 to 0.8",
        "needs one of connection_string, connection_string_file, connection_string_env",
        "did you mean main?",
        "is missing",
        "must be https",
        "did you mean RENEWER_DAEMON__LOG_LEVEL?",
        "must be one of auto, json, console",
        "from 0 to 0.5",
    ):
        assert remedy in told


@pytest.mark.parametrize(
    ("text", "key", "remedy"),
    [
        ("[daemn]\nlog_level = 'info'", "daemn", "did you mean daemon?"),
        ("[[sessions]]\nentity = 'x'", "sessions", "did you mean session?"),
        ("[daemon]\nmax_interval = '1m'", "daemon.max_interval", "it belongs in [renewal]"),
        ("[daemon]\npoll_floor = '1m'", "daemon.poll_floor", "it belongs in [fabric.NAME]"),
        ("[metrics]\nxyzzy = 1", "metrics.xyzzy", "known in [metrics]: listen"),
        ("xyzzy = 1", "xyzzy", "known at the top: daemon, registry, api"),
        ("[session]\nentity = 'x'", "session", "[[session]], in double brackets"),
        ("session = [1]", "session[0]", "must be a table"),
        ("[servicebus]\nconnection_string = 'x'", "servicebus.connection_string", "as in [servicebus.main]"),
        ("[[servicebus]]\nx = 1", "servicebus", "tables with names, such as [servicebus.main]"),
        ("[servicebus.'a b']\nconnection_string = '$CONNECTION'", "servicebus.a b", "letters, digits, _ and -"),
        ("daemon = 1", "daemon", "must be a table, [daemon]"),
        ("[api]\nsocket_mode = 0o660", "api.socket_mode", 'as text, such as "0660"'),
        ("[api]\nsocket_mode = '0060'", "api.socket_mode", "must let the owner read and write"),
        ("[daemon]\nstate_dir = ''", "daemon.state_dir", "must be a path"),
        ("[renewal]\nreacquire = 'perhaps'", "renewal.reacquire", "must be true or false"),
        ("[renewal]\nconcurrency = true", "renewal.concurrency", "must be a whole number from 1 to 65536"),
        ("[fabric.main]\ncredential = 'cli'", "fabric.main.credential", "must be one of default, "),
        ("[fabric.main]\ntoken = 5", "fabric.main.token", "must be text, in quotes"),
        (
            MAIN + "[[session]]\nentity = 'a'\nsession_id = 42",
            "session[0].session_id",
            "in quotes; absent: next available",
        ),
        (MAIN + "[[session]]\nentity = 'a'\nlabels = 'x'", "session[0].labels", "must be a table of texts"),
        (MAIN + "[[session]]\nentity = 'a'\nlabels = {a = 1}", "session[0].labels.a", "must be text"),
        (MAIN + "[[session]]\nentity = 'sb://h/q'", "session[0].entity", "no URL"),
        (
            MAIN + f"[[session]]\nentity = 'a'\nlabels = {{ {'x' * 64} = '' }}",
            f"session[0].labels.{'x' * 64}",
            "at most 63",
        ),
        (MAIN + f"[[session]]\nentity = 'a'\nlabels.a = '{'x' * 256}'", "session[0].labels.a", "at most 255"),
        (MAIN + "[[session]]\nentity = 'a'\nlabels.'' = 'x'", "session[0].labels.", "at least 1"),
        (
            MAIN + "[[session]]\nentity = 'a'\n" + "".join(f"labels.a{n} = ''\n" for n in range(33)),
            "session[0].labels",
            "32",
        ),
        ("[fabric.main]\nscope = ''", "fabric.main.scope", "must be a scope"),
        ("[fabric.main]\nbase_url = 'ftp://h'", "fabric.main.base_url", "must be an https URL"),
        ("[fabric.main]\nbase_url = 'https://[::1'", "fabric.main.base_url", "must be an https URL"),
        ("[fabric.main]\nbase_url = 'https://u@h'", "fabric.main.base_url", "no user"),
        ("[fabric.main]\nbase_url = 5", "fabric.main.base_url", "must be an https URL"),
        (MAIN + "[[session]]\nentity = '/q'", "session[0].entity", "no empty part"),
        (MAIN + "[[session]]\nentity = 'q/$DeadLetterQueue'", "session[0].entity", "have none"),
        (MAIN + "[[session]]\nentity = ''", "session[0].entity", "the name of a queue"),
    ],
)
def test_each_mistake_says_what_would_be_right(config: ConfigFile, text: str, key: str, remedy: str) -> None:
    found = config.problems(text)
    assert [problem.key for problem in found] == [key]
    assert remedy in found[0].remedy


def test_keys_of_later_issues_are_unknown(config: ConfigFile) -> None:
    found = config.problems("[azure.main]\ncancel = true\n[[session]]\nentity = 'a'\ncount = 2\n" + MAIN)
    assert [problem.key for problem in found] == ["azure.main.cancel", "session[0].count"]


@pytest.mark.parametrize(
    ("text", "where", "remedy"),
    [
        ("[daemon]\nlog_level = \n", "config.toml:2:13", "is not TOML: Invalid value"),
        ("[daemon]\n[daemon]\n", "config.toml:2:8", "Cannot declare"),
        ('a = """', "config.toml:1:8", "Unterminated"),
        ("[api]\nsocket_mode = 0660", "config.toml:2:16", "is not TOML"),
        ("a = " + "[" * 10_000, "config.toml", "nested too deep"),
        ("a = " + "1" * 5000, "config.toml", "limit"),
    ],
)
def test_what_is_not_toml_is_told_with_line_and_column(config: ConfigFile, text: str, where: str, remedy: str) -> None:
    found = config.problems(text)
    assert [(problem.where, problem.key, problem.value) for problem in found] == [(where, "syntax", None)]
    assert remedy in found[0].remedy


def test_a_broken_file_does_not_hide_mistakes_elsewhere(config: ConfigFile) -> None:
    found = config.problems("[", environ={"RENEWER_DAEMON": "x"}, overrides={"a..b": 1, "": 2})
    assert [(problem.where, problem.key) for problem in found] == [
        ("config.toml:1:2", "syntax"),
        ("environment", "RENEWER_DAEMON"),
        ("flag", "a..b"),
        ("flag", ""),
    ]


def test_deep_nesting_that_is_valid_is_an_unknown_key_like_any_other(config: ConfigFile) -> None:
    found = config.problems("xyzzy = " + "[" * 300 + "]" * 300)
    assert [problem.key for problem in found] == ["xyzzy"]


@pytest.mark.parametrize(
    ("variable", "value", "key", "remedy"),
    [
        ("RENEWER_DAEMON__LOG_LEVLE", "info", "RENEWER_DAEMON__LOG_LEVLE", "did you mean log_level?"),
        ("RENEWER_DAEMON__LOGLEVEL", "info", "RENEWER_DAEMON__LOGLEVEL", "did you mean log_level?"),
        ("RENEWER_DEAMON__LOGLEVEL", "info", "RENEWER_DEAMON__LOGLEVEL", "did you mean RENEWER_DAEMON__LOG_LEVEL?"),
        ("RENEWER_DEAMON__", "x", "RENEWER_DEAMON__", "its key is missing; it is written as RENEWER_DAEMON__KEY"),
        ("RENEWER_SERVICE_BUS__", "x", "RENEWER_SERVICE_BUS__", "it is written as RENEWER_SERVICEBUS__NAME__KEY"),
        ("RENEWER_SERVICE_BUS__A__", "x", "RENEWER_SERVICE_BUS__A__", "it is written as RENEWER_SERVICEBUS__A__KEY"),
        ("RENEWER_SESSIONS__", "x", "RENEWER_SESSIONS__", "it is written as RENEWER_SESSION__0__KEY"),
        ("RENEWER_DEAMON____LOG_LEVEL", "x", "RENEWER_DEAMON____LOG_LEVEL", "did you mean RENEWER_DAEMON__LOG_LEVEL?"),
        ("RENEWER_FOO__", "x", "RENEWER_FOO__", "known sections are daemon, registry, "),
        ("RENEWER___", "x", "RENEWER___", "known sections are daemon, registry, "),
        ("RENEWER_ENV__X", "x", "RENEWER_ENV__X", "no such setting"),
        ("RENEWER_ENV__", "x", "RENEWER_ENV__", "no such setting"),
        ("RENEWER_FOO__BAR", "x", "RENEWER_FOO__BAR", "known sections are daemon, registry, "),
        ("RENEWER_LOG__LEVEL", "x", "RENEWER_LOG__LEVEL", "did you mean RENEWER_DAEMON__LOG_LEVEL?"),
        ("RENEWER_DAEMON_LOG_LEVEL", "x", "RENEWER_DAEMON_LOG_LEVEL", "did you mean RENEWER_DAEMON__LOG_LEVEL?"),
        ("renewer_api_listen", "x", "renewer_api_listen", "did you mean RENEWER_API__LISTEN?"),
        ("RENEWER__LOG_LEVEL", "x", "RENEWER__LOG_LEVEL", "did you mean RENEWER_DAEMON__LOG_LEVEL?"),
        ("RENEWER__DAEMON__LOG_LEVEL", "x", "RENEWER__DAEMON__LOG_LEVEL", "did you mean RENEWER_DAEMON__LOG_LEVEL?"),
        ("RENEWER_HTTP__PORT", "80", "RENEWER_HTTP__PORT", "no such setting"),
        ("RENEWER_BUS__MAIN__X", "x", "RENEWER_BUS__MAIN__X", "no such setting"),
        (
            "RENEWER_SERVICE_BUS__MAIN__CONNECT_TIME_OUT",
            "1s",
            "RENEWER_SERVICE_BUS__MAIN__CONNECT_TIME_OUT",
            "did you mean RENEWER_SERVICEBUS__MAIN__CONNECT_TIMEOUT?",
        ),
        ("RENEWER_DAEMON", "[", "RENEWER_DAEMON", "must be JSON; or set single keys, as in RENEWER_DAEMON__KEY"),
        ("RENEWER_DAEMON", "[" * 100_000, "RENEWER_DAEMON", "must be JSON"),
        ("RENEWER_SESSION", "[5]", "RENEWER_SESSION[0]", "must be a table"),
        ("RENEWER_SESSION__0__ENTITY", "x", "RENEWER_SESSION__0__ENTITY", "there is no session[0].entity to change"),
        ("RENEWER_SERVICEBUS__MAIN__LOCK_DURATION", "30s", "servicebus.main", "needs one of connection_string"),
        ("RENEWER_DAEMON__LOG_LEVEL__X", "1", "daemon.log_level", "must be one of debug"),
    ],
)
def test_mistakes_in_the_environment_are_told_by_the_variable(
    config: ConfigFile, variable: str, value: str, key: str, remedy: str
) -> None:
    found = config.problems("", environ={variable: value})
    assert [(problem.where, problem.key) for problem in found] == [("environment", key)]
    assert remedy in found[0].remedy


def test_a_flag_for_what_is_not_there_is_a_mistake(config: ConfigFile) -> None:
    text = '[daemon]\nlog_level = "info"\n'
    overrides = {"session[0].entity": "x", "daemon.log_level.x": 1, "session[x].entity": 1, "[0]": 1, "daemon.nope": 1}
    found = config.problems(text, overrides=overrides)
    assert {problem.where for problem in found} == {"flag"}
    assert {problem.key for problem in found} == set(overrides)


def test_one_mistake_causes_no_others_that_are_not_there(config: ConfigFile) -> None:
    text = "\n".join(
        [
            "[api]",
            "listen = 'tcp:127.0.0.1:8322'",
            "key = 5",
            "[servicebus.main]",
            "connection_string = 5",
            "[servicebus.other]",
            "connection_string = '$CONNECTION'",
            "[[session]]",
            "servicebus = 'main'",
            "entity = ''",
            "[[session]]",
            "servicebus = 'main'",
            "entity = ''",
        ]
    )
    found = config.problems(text)
    assert [problem.key for problem in found] == [
        "api.key",
        "servicebus.main.connection_string",
        "session[0].entity",
        "session[1].entity",
    ]


def test_a_section_of_the_wrong_kind_is_one_mistake(config: ConfigFile) -> None:
    found = config.problems("servicebus.main = 5\n[[session]]\nservicebus = 'main'\nentity = 'a'\n")
    assert [problem.key for problem in found] == ["servicebus.main"]


def test_numbers_of_later_entries_stay_right_when_an_earlier_one_is_unusable(config: ConfigFile) -> None:
    text = 'session = [ 5, { entity = "a", session_id = "x" }, { entity = "A", session_id = "x" } ]\n' + MAIN
    found = config.problems(text)
    assert [problem.key for problem in found] == ["session[0]", "session[2]"]
    assert "the same session as session[1]" in found[1].remedy


def test_a_thousand_mistakes_are_not_all_listed(config: ConfigFile) -> None:
    found = config.problems("".join(f"xyzzy{number} = 1\n" for number in range(1000)))
    assert len(found) == 201
    assert found[-1].value == "800"


@pytest.mark.parametrize(
    "text",
    [
        "[api]\nkey = ['%s']",
        "[api]\nkei = '%s'",
        "[api]\nxyzzy = '%s'",
        "api = '%s'",
        "fabric = '%s'",
        "fabric.main = '%s'",
        "tokn = '%s'",
        "[servicebus.main]\nconn = '%s'",
        "[servicebus.main]\nconnection_string = '%s'",
        "[servicebus.main]\nconnection_string = 'Endpoint=sb://x;SharedAccessKey=%s;bad'",
        "[servicebus.main]\nconnection_string = 'Endpoint=sb://x;%s=1'",
        "[servicebus.main]\nconnection_string = 'Endpoint=%s'",
        "[servicebus.main]\nconnection_string_file = 'Endpoint=sb://x;SharedAccessKey=%s'",
        "[servicebus.main]\nconnection_string_env = 'Endpoint=sb://x;SharedAccessKey=%s'",
        "[servicebus.main]\nca_file = 'Endpoint=sb://x;SharedAccessKey=%s'",
        "[servicebus]\nconnection_string = '%s'",
        "[fabric.main]\ntoken = 'a b %s'",
        "[fabric.main]\ntoken_env = '%s='",
        "[fabric.main]\nbase_url = 'https://user:%s@host'",
        "[fabric.main]\ntoken = '''%s",
        "[fabric.main]\ntoken = %s",
        "[fabric.main.%s]\nx = [",
    ],
)
def test_secrets_are_never_shown(config: ConfigFile, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(text % SECRET)
    error = caught.value
    shown = f"{error}{error!r}{describe_problems(error)}{error.__cause__}"
    assert SECRET not in shown
    assert SECRET.lower() not in shown.lower()
    assert error.__context__ is None or error.__suppress_context__


def test_a_secret_in_the_environment_is_never_shown(config: ConfigFile) -> None:
    environ = {
        "RENEWER_SERVICEBUS__MAIN__CONNECTION_STRING": f"Endpoint=sb://x;SharedAccessKey={SECRET}",
        "RENEWER_SERVICEBUS__OTHER": SECRET,
        "RENEWER_FABRIC": f'{{"main": {{"token": "{SECRET}"',
        "RENEWER_API__KEYY": SECRET,
        "RENEWER_DEAMON__X": SECRET,
    }
    found = config.problems("", environ=environ)
    assert len({problem.key for problem in found}) == len(environ)
    assert SECRET not in "".join(map(str, found))


def test_a_secret_value_is_shown_as_stars(config: ConfigFile) -> None:
    found = config.problems("[fabric.main]\ntoken = 'a b'\n")
    assert [problem.value for problem in found] == ["***"]


def test_values_cannot_play_with_the_terminal(config: ConfigFile) -> None:
    found = config.problems('"a\\u001b[2Jb" = 1\n[daemon]\nlog_level = "\\u001b[31m\\nred"\n')
    assert all(str(problem).isprintable() for problem in found)
    assert found[1].value == '"\\u001b[31m\\nred"'


def test_a_long_value_is_shown_in_part(config: ConfigFile) -> None:
    found = config.problems(f"[daemon]\nlog_level = '{'x' * 1000}'\n")
    assert found[0].value is not None
    assert len(found[0].value) < 100


def test_people_are_told_where_what_and_how() -> None:
    problems = [ConfigProblem("c.toml:3", "a.b", '"x"', "must be y"), ConfigProblem("flag", "c", None, "is missing")]
    assert describe_problems(ConfigError(problems)) == "\n".join(
        [
            "The configuration has 2 mistakes:",
            '  c.toml:3: a.b = "x"',
            "      must be y",
            "  flag: c",
            "      is missing",
        ]
    )
    assert describe_problems(ConfigError(problems[:1])).startswith("The configuration has a mistake:\n")


_names = st.sampled_from(["daemon", "api", "metrics", "renewal", "servicebus", "session", "fabric", "main", "listen"])
_junk = st.recursive(
    st.one_of(st.text(max_size=4), st.integers(), st.floats(), st.booleans(), st.none(), st.just("1s")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(_names | st.text(max_size=4), inner, max_size=4),
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.dictionaries(_names | st.text(max_size=4), _junk, max_size=5))
def test_junk_is_a_configuration_error_and_nothing_else(junk: dict[str, object]) -> None:
    try:
        load(None, environ={}, overrides=junk)
    except ConfigError as error:
        problems = error.problems
    else:
        return
    assert problems
    assert all(problem.remedy for problem in problems)


@settings(deadline=None)
@given(st.dictionaries(_names, _junk, max_size=5).map(lambda data: {"session": [data], "fabric": data}))
def test_junk_deeper_down_is_a_configuration_error_too(junk: dict[str, object]) -> None:
    try:
        load(None, environ={}, overrides=junk)
    except ConfigError as error:
        problems = error.problems
    else:
        return
    assert problems
