"""TLS without I/O: both sides in memory, over pads that they share."""

from __future__ import annotations

import ssl

import pytest

from renewer.errors import UsageError
from renewer.gateway.tls import READ_SIZE, Scratch, Tls, server_context
from renewer.targets.servicebus.tcp import tls_context
from tests.targets.tls_rig import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(authority):
    return authority.server("gateway.test")


class Both:
    """Two sides and what lies between them."""

    def __init__(self, client_context, server, name="gateway.test"):
        self.scratch = Scratch()
        self.client = Tls(client_context, self.scratch, server_hostname=name)
        self.server = Tls(server, self.scratch)

    def give(self, side, data):
        heard = b""
        for at in range(0, len(data), READ_SIZE):
            piece = data[at : at + READ_SIZE]
            self.scratch.raw[: len(piece)] = piece
            heard += side.receive(len(piece))
        return heard

    def shake_hands(self):
        self.client.begin()
        self.server.begin()
        while not (self.client.is_open and self.server.is_open):
            self.give(self.server, self.client.take())
            self.give(self.client, self.server.take())


@pytest.fixture
def both(authority, server):
    made = Both(tls_context(str(authority.file)), server)
    made.shake_hands()
    return made


@pytest.mark.parametrize("size", [1, 4096, 16384, 16385, 1_000_000])
def test_what_one_side_sends_the_other_hears_both_ways(both, size):
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    assert both.give(both.server, both.client.encrypt(data)) == data
    assert both.give(both.client, both.server.encrypt(data)) == data


def test_bytes_that_come_one_by_one_make_the_same_text(both):
    records = both.client.encrypt(b"a first one") + both.client.encrypt(b", and another")
    heard = b"".join(both.give(both.server, records[at : at + 1]) for at in range(len(records)))
    assert heard == b"a first one, and another"


def test_a_record_that_was_begun_before_a_full_pad_does_not_overflow_it(both):
    data = b"x" * (READ_SIZE + 100_000)
    records = both.client.encrypt(data)
    heard = both.give(both.server, records[:8000])
    heard += both.give(both.server, records[8000 : 8000 + READ_SIZE])
    heard += both.give(both.server, records[8000 + READ_SIZE :])
    assert heard == data


def test_a_farewell_is_heard_after_what_was_said_before(both):
    assert both.give(both.server, both.client.encrypt(b"last") + both.client.farewell()) == b"last"
    assert both.server.has_ended
    assert not both.client.has_ended


def test_a_name_that_the_certificate_does_not_have_is_refused(authority, server):
    strangers = Both(tls_context(str(authority.file)), server, name="elsewhere.test")
    with pytest.raises(ssl.SSLCertVerificationError, match="elsewhere"):
        strangers.shake_hands()
    assert strangers.client.take()[0] == 21, "an alert is there to be sent"


def test_what_is_no_tls_is_an_error_and_not_text(both):
    with pytest.raises(ssl.SSLError):
        both.give(both.server, b"AMQP\x00\x01\x00\x00 and what more there may be")


def test_a_record_that_was_changed_on_its_way_is_an_error(both):
    records = bytearray(both.client.encrypt(b"the truth"))
    records[-1] ^= 1
    with pytest.raises(ssl.SSLError):
        both.give(both.server, bytes(records))


def test_a_certificate_that_is_not_there_or_none_is_said_so(tmp_path):
    with pytest.raises(UsageError, match=r"gone\.pem.*name a PEM certificate"):
        server_context(str(tmp_path / "gone.pem"), None)
    (tmp_path / "odd.pem").write_text("no certificate\n")
    with pytest.raises(UsageError, match=r"odd\.pem"):
        server_context(str(tmp_path / "odd.pem"), None)
