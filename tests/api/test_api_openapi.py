"""The API's document: up to date, true of what is answered, and nothing that it allows breaks the server."""

from __future__ import annotations

import json
from importlib import resources

import anyio
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from pydantic import TypeAdapter
from schemathesis.checks import CHECKS, load_all_checks

from renewer.api.control import PASSING_EVENTS
from renewer.api.documents import to_json
from renewer.api.events import TYPES
from renewer.api.server import build_api, openapi_document
from renewer.api.views import Calendar, LeaseView, OperationView, show_lease, show_operation
from renewer.core.model import Owner, Result
from renewer.core.states import LeaseState, OperationState, OwnerKind
from tests.api.scripted_control import ScriptedControl

STREAMS = ["/v1/events", "/v1/leases/{id}/events"]
EXAMPLES = 25


def test_the_document_that_is_kept_is_up_to_date():
    kept = resources.files("renewer.api").joinpath("openapi.json").read_text(encoding="utf-8")
    assert json.loads(kept) == openapi_document(), "run `make openapi`"


def test_every_reference_leads_somewhere():
    document = openapi_document()
    schemas = document["components"]["schemas"]
    references = set()

    def walk(value):
        if isinstance(value, dict):
            references.update(name for key, name in value.items() if key == "$ref")
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(document)
    assert references <= {f"#/components/schemas/{name}" for name in schemas}
    assert {"Problem", "Event"} <= schemas.keys()
    assert not any("Validation" in name for name in schemas)


def test_every_error_is_a_problem():
    for path, operations in openapi_document()["paths"].items():
        for method, operation in operations.items():
            for status, answer in operation["responses"].items():
                if not status.startswith("2"):
                    assert answer["content"].keys() == {"application/problem+json"}, (method, path, status)
            assert {"400", "401", "403", "408"} <= operation["responses"].keys()


def test_quiet_events_are_events():
    assert PASSING_EVENTS < TYPES


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.mark.anyio
async def test_what_is_shown_is_what_the_document_says():
    control = ScriptedControl()
    owner = Owner(OwnerKind.HEARTBEAT, 5)
    leases = [control.add_lease(state=state, owner=owner, labels={"a": "b"}) for state in LeaseState]
    control.lose(leases[0])
    leases[1].owner_until = control.now()
    operations = [control.add_operation(state) for state in OperationState]
    control.finish(operations[0], Result("json", None, b"{}"))
    operations[1].error = {"any": ["thing"]}
    when = Calendar(control.clock)
    for view, shown in (
        *((LeaseView, show_lease(lease, when)) for lease in leases),
        *((OperationView, show_operation(operation, when)) for operation in operations),
    ):
        assert TypeAdapter(view).validate_json(to_json(shown), strict=True) == shown
        assert shown.keys() == view.__annotations__.keys()


# --- schemathesis ---------------------------------------------------------------------------------------------------


def build_for_schemathesis():
    """The API over a daemon in which some of everything can be found. Nothing waits, or a wait would be sat out."""
    control = ScriptedControl()

    async def at_once(*_arguments, **_options):
        await anyio.lowlevel.checkpoint()

    receive = control.receive

    async def received_at_once(lease_id, *, count, wait_s):
        assert wait_s >= 0
        return await receive(lease_id, count=count, wait_s=0.0)

    control.wait_lease = control.wait_operations = at_once
    control.receive = received_at_once

    async def app(scope, receive, send):
        if not list(control.leases()):
            control.add_lease("s")
        if not list(control.operations()):
            control.finish(control.add_operation(), Result("json", "application/json", b"{}"))
        await api(scope, receive, send)

    api = build_api(control, over_tcp=False)
    app.control = control
    return app


load_all_checks()
schema = schemathesis.openapi.from_asgi("/v1/openapi.json", build_for_schemathesis()).exclude(path=STREAMS)
checks = CHECKS.get_by_names(
    ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"]
)


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_nothing_that_is_sent_brings_an_answer_that_is_not_documented(case):
    case.call_and_validate(checks=checks)
    if "id" in case.path_parameters:
        # Once more for something that is there; which of them is left depends on what was done before.
        kind = "leases" if "/leases/" in case.path else "operations"
        app = case.operation.schema.app
        for found in list(getattr(app.control, kind)())[:1]:
            case.path_parameters["id"] = found.spec.id
            case.call_and_validate(checks=checks)
