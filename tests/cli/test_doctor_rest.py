"""`renewer doctor` at a namespace that is reached over REST."""

from __future__ import annotations

import anyio
import pytest
from anyio.abc import SocketAttribute

from renewer.cli.doctor.findings import Examination, Verdict
from renewer.cli.doctor.namespaces import examine_namespace
from renewer.config import Settings
from renewer.daemon.clock import SystemClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_the_way_is_tried_and_no_entity() -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, lambda stream: stream.aclose())
        port = listener.extra(SocketAttribute.local_port)
        text = f"Endpoint=sb://127.0.0.1:{port};SharedAccessKeyName=a;SharedAccessKey=YQ==;UseDevelopmentEmulator=true"
        settings = Settings.model_validate({"servicebus": {"main": {"connection_string": text, "transport": "rest"}}})
        examination = Examination("servicebus.main")
        await examine_namespace(examination, "main", settings, SystemClock())
        found = {finding.check: finding for finding in examination.findings}
        assert list(found)[-4:] == ["dns", "tcp", "connection", "rest"]
        assert found["rest"].verdict is Verdict.OK
        assert "no entity was tried" in found["rest"].seen
        tasks.cancel_scope.cancel()
