"""An SDK that knows the namespace by its own name, and finds the gateway, inside TLS, by `custom_endpoint_address`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.servicebus import ServiceBusClient, ServiceBusMessage, TransportType
from azure.servicebus.exceptions import ServiceBusError

from tests.gateway.judges.gateway_process import NEEDS_GATEWAY, Gateways, JudgedBroker, gateways_before, judged_broker
from tests.gateway.judges.keeping_scenarios import receive
from tests.targets.tls_rig import Authority

pytestmark = NEEDS_GATEWAY


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def broker() -> Iterator[JudgedBroker]:
    with judged_broker() as broker:
        yield broker


@pytest.fixture(scope="module")
def gateways(broker: JudgedBroker, authority: Authority) -> Iterator[Gateways]:
    authority.server("localhost")
    (certificate,) = Path(authority.file).parent.glob("server-*.pem")
    with gateways_before(broker.connection_string, certificate=str(certificate)) as gateways:
        yield gateways


def client_of(gateways: Gateways, ca_file: Path) -> ServiceBusClient:
    return ServiceBusClient.from_connection_string(
        f"Endpoint=sb://contoso.example/;SharedAccessKeyName=local;SharedAccessKey={gateways.keys['local']}",
        custom_endpoint_address=f"sb://localhost:{gateways.ports['tls']}",
        connection_verify=str(ca_file),
        transport_type=TransportType.Amqp,  # With an endpoint of one's own azure-servicebus 7.15 else takes WebSocket.
        retry_total=0,
    )


def test_a_worker_comes_inside_tls_and_keeps_the_name_of_its_namespace(
    broker: JudgedBroker, gateways: Gateways, authority: Authority
) -> None:
    queue, sessions = broker.queue(), broker.queue(sessions=True)
    with client_of(gateways, authority.file) as client:
        with client.get_queue_sender(queue) as sender:
            sender.send_messages(ServiceBusMessage(b"x" * 900_000))
        with client.get_queue_receiver(queue) as receiver:
            (message,) = receive(receiver, 1)
            assert len(b"".join(message.body)) == 900_000
            receiver.complete_message(message)
        with client.get_queue_receiver(sessions, session_id="s") as receiver:
            receiver.session.set_state("held")
            (lease,) = gateways.until_leases(sessions, 1, state="held")
            assert lease["labels"]["gateway"] == "tls"


def test_a_worker_that_does_not_trust_the_certificate_does_not_come(
    broker: JudgedBroker, gateways: Gateways, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path)
    with client_of(gateways, stranger.file) as client, pytest.raises(ServiceBusError):
        client.get_queue_receiver(broker.queue()).__enter__()
