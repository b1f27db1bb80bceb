"""config.example.toml: complete, true and valid."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
from pydantic import BaseModel, create_model
from pydantic.fields import FieldInfo

from renewer.config import AzureSettings, ConnectionString, GatewaySettings, Settings, load
from renewer.config.ratelimits import LimitSettings

COMMENTED_OUT = ("azure", "gateway")
"""The sections that are commented out as a whole, with what is in them."""

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
HEADER = re.compile(r"(?:# )?\[+(([a-z_]+)(?:\.[a-z]+)?)\]+")
SETTING = re.compile(r"(# )?([a-z_]+) = (.+)")


@dataclass(frozen=True, slots=True)
class Line:
    section: str
    key: str
    value: Any
    commented: bool


def example_lines() -> list[Line]:
    """Every setting of the example, commented out or not."""
    lines: list[Line] = []
    section = ""
    for text in EXAMPLE.read_text(encoding="utf-8").splitlines():
        if header := HEADER.fullmatch(text):
            section = header[1] if header[1] in sections() else header[2]
        elif match := SETTING.fullmatch(text):
            value = tomllib.loads(f"value = {match[3]}")["value"]
            lines.append(Line(section, match[2], value, match[1] is not None))
    return lines


def sections() -> dict[str, type[BaseModel]]:
    """The models by the name of their section."""
    found: dict[str, type[BaseModel]] = {}
    for name, field in Settings.model_fields.items():
        model = section_of(field)
        assert model is not None
        found[name] = model
        inner = {key: section_of(field) for key, field in model.model_fields.items()}
        found |= {f"{name}.{key}": model for key, model in inner.items() if model is not None}
    return found


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a field leads to. Limits are written on one line."""
    candidates = [field.annotation, *get_args(field.annotation)]
    models = [kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return next((model for model in models if not issubclass(model, LimitSettings)), None)


FIELDS = [
    (section, key, field)
    for section, model in sections().items()
    for key, field in model.model_fields.items()
    if section_of(field) is None
]


def validated(key: str, field: FieldInfo, value: Any) -> Any:
    annotation: Any = field.annotation
    for constraint in field.metadata:
        annotation = Annotated[annotation, constraint]
    # As a field of a model: what settings around it say may matter.
    return create_model("Alone", **{key: (annotation, ...)})(**{key: value}).__dict__[key]


def test_the_example_loads_without_a_problem() -> None:
    settings = load(EXAMPLE, environ={}, overrides={})
    assert [(session.entity, session.session_id) for session in settings.session] == [("orders", "customer-42")]
    secret = settings.servicebus["main"].connection_string
    assert secret is not None
    connection = ConnectionString.parse(secret.get_secret_value())
    assert (connection.host, connection.port, connection.tls) == ("127.0.0.1", 5672, False)
    assert settings.fabric["main"].base_url == "http://127.0.0.1:8323/v1"


def test_what_is_commented_out_as_a_whole_loads_once_it_is_not() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    section = text.partition("# [azure.main]")[2].partition("\n# Leases")[0]
    ours = re.compile(r"# (token|client_|tenant_|certificate_)\w* = ")
    lines = [line[2:] for line in section.splitlines() if SETTING.fullmatch(line) and not ours.match(line)]
    overrides = tomllib.loads("[azure.main]\n" + "\n".join(lines))
    settings = load(EXAMPLE, environ={}, overrides=overrides)
    left_out = {key for key in AzureSettings.model_fields if ours.match(f"# {key} = ")}
    assert settings.azure["main"].model_fields_set == AzureSettings.model_fields.keys() - left_out


def test_the_gateway_that_is_commented_out_loads_once_it_is_not() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    section = text.partition("# [[gateway]]")[2].partition("\n\n\n")[0]
    # What needs a file, a variable, a group or a socket is left out; the port is that of the emulator.
    left_out = re.compile(r"# (tls_\w+|socket_\w+|key_\w+|listen) = ")
    wanted = [line for line in section.splitlines() if SETTING.fullmatch(line) or HEADER.fullmatch(line)]
    lines = [line[2:] for line in wanted if not left_out.match(line)]
    overrides = tomllib.loads("[[gateway]]\nlisten = '127.0.0.1:5673'\n" + "\n".join(lines))
    (gateway,) = load(EXAMPLE, environ={}, overrides=overrides).gateway
    given = gateway.model_fields_set
    assert GatewaySettings.model_fields.keys() - given == {
        key for key in GatewaySettings.model_fields if left_out.match(f"# {key} = ")
    } - {"listen"}
    assert [(key.name, len(key.entities)) for key in gateway.key] == [("local", 3)]
    assert [rule.entity for rule in gateway.entity] == ["events/Subscriptions/audit"]


@pytest.mark.parametrize(("section", "key", "field"), FIELDS, ids=[f"{section}.{key}" for section, key, _ in FIELDS])
def test_the_example_shows_each_setting_with_its_true_default(section: str, key: str, field: FieldInfo) -> None:
    lines = [line for line in example_lines() if (line.section, line.key) == (section, key)]
    assert lines
    values = [validated(key, field, line.value) for line in lines]
    default = field.get_default(call_default_factory=True)
    if not field.is_required() and default is not None:
        assert default in values


def test_the_example_shows_nothing_that_is_not_a_setting() -> None:
    known = {(section, key) for section, key, _ in FIELDS}
    assert {(line.section, line.key) for line in example_lines()} <= known


def test_what_is_commented_out_is_optional_or_a_default_that_the_example_replaces() -> None:
    fields = {(section, key): field for section, key, field in FIELDS}
    replaced = {("fabric", key) for key in ("base_url", "credential", "scope", "limits")}
    replaced.add(("servicebus", "credential"))
    for line in example_lines():
        if (
            line.commented
            and line.section.partition(".")[0] not in COMMENTED_OUT
            and (line.section, line.key) not in replaced
        ):
            assert fields[line.section, line.key].default is None


def test_each_setting_says_why_one_would_change_it() -> None:
    texts = EXAMPLE.read_text(encoding="utf-8").splitlines()
    for number, text in enumerate(texts):
        if SETTING.fullmatch(text):
            above = texts[number - 1]
            assert above.startswith("# ") or SETTING.fullmatch(above), text
