"""Certificates for tests: an authority of our own, and servers that it vouches for."""

from __future__ import annotations

import datetime
import ipaddress
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class Authority:
    """Signs certificates; `file` is its own."""

    def __init__(self, folder):
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "renewer test authority")])
        self.file = folder / "ca.pem"
        self.file.write_bytes(_pem(self._sign(self._name, self._key.public_key(), is_authority=True)))

    def server(self, *names):
        """What a server needs that is called so; names that are addresses are taken for addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "renewer test server")])
        certificate = self._sign(subject, key.public_key(), names=names)
        file = self._folder / f"server-{certificate.serial_number}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file.write_bytes(_pem(certificate) + private)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(file)
        return context

    def _sign(self, subject, public_key, *, names=(), is_authority=False):
        begins = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
        ends = begins + datetime.timedelta(days=90)
        builder = x509.CertificateBuilder(
            self._name, subject, public_key, x509.random_serial_number(), begins, ends
        ).add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_name(name) for name in names]), critical=False
            )
        return builder.sign(self._key, hashes.SHA256())


def _name(text):
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)
