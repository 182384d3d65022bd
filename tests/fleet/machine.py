"""A machine with a key of its own, as an agent would be; signs what it says."""

import base64
from collections.abc import Callable
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from compliance import audit
from controlplane.fleet import services, wire
from controlplane.fleet.credentials import Call
from controlplane.fleet.models import Node, Pool

Key = Ed25519PrivateKey | ec.EllipticCurvePrivateKey
Join = Callable[..., tuple[Node, "Machine"]]


def csr(key: Key, name: str = "whatever the machine says") -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    signed = builder.sign(key, None if isinstance(key, Ed25519PrivateKey) else hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


class Machine:
    def __init__(self, key: Key | None = None) -> None:
        self.key: Key = key or Ed25519PrivateKey.generate()
        self.certificate_pem = ""

    @property
    def csr(self) -> str:
        return csr(self.key)

    def headers(
        self, method: str, path: str, body: bytes = b"", *, now: datetime
    ) -> dict[str, str]:
        timestamp = f"{now.timestamp():.6f}"
        signed = wire.signed_bytes(method, path, timestamp, body)
        if isinstance(self.key, Ed25519PrivateKey):
            signature = self.key.sign(signed)
        else:
            signature = self.key.sign(signed, ec.ECDSA(hashes.SHA256()))
        certificate = x509.load_pem_x509_certificate(self.certificate_pem.encode())
        der = certificate.public_bytes(serialization.Encoding.DER)
        return {
            wire.CERTIFICATE_HEADER: base64.b64encode(der).decode(),
            wire.SIGNATURE_HEADER: base64.b64encode(signature).decode(),
            wire.TIMESTAMP_HEADER: timestamp,
        }

    def call(self, method: str, path: str, body: bytes = b"", *, now: datetime) -> Call:
        return Call(method, path, self.headers(method, path, body, now=now), body)


def enrolled(pool: Pool, name: str, *, now: datetime) -> tuple[Node, Machine]:
    """A machine that has just joined `pool`, and its node."""
    machine = Machine()
    _, secret = services.issue_enrollment_token(pool=pool, actor=audit.SYSTEM, now=now)
    node, credential = services.enroll(
        token=secret, csr_pem=machine.csr, name=name, agent_version="0.1.0", now=now
    )
    machine.certificate_pem = credential.certificate_pem
    return node, machine


def inventory(*devices: wire.DeviceInfo) -> wire.Inventory:
    return wire.Inventory(
        hostname="gpu-1",
        os="Debian 13",
        kernel="6.12",
        cpu_model="EPYC",
        cpu_count=64,
        memory_bytes=1 << 40,
        disk_free_bytes=1 << 41,
        python="3.12.8",
        devices=list(devices),
    )


def report(
    boot_id: str = "boot-1", seq: int = 1, inventory: wire.Inventory | None = None
) -> wire.Report:
    return wire.Report(
        boot_id=boot_id,
        seq=seq,
        agent_version="0.1.0",
        desired_version=1,
        replicas=[],
        inventory=inventory,
    )
