"""A node's relay in front of the canned engine, and what a gateway needs to be let in."""

import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane.fleet import authority, wire
from tests.benchmarks.peers.processes import Program
from workers.agent import credential
from workers.local.embedded import free_port

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Relays:
    """The relay of one node; which replicas it has is told when it is started."""

    folder: Path
    region: authority.Authority
    port: int

    @classmethod
    def build(cls, region: str, folder: Path) -> "Relays":
        return cls(folder, authority.create(region, now=datetime.now(UTC)), free_port())

    @property
    def address(self) -> str:
        return f"relay:127.0.0.1:{self.port}"

    def start(self, sockets: dict[str, Path]) -> Program:
        """A process with the agent's relay and nothing else. Raises PeerError."""
        directory = self.folder / "node"
        key = credential.pending_key(directory)
        certificate = authority.node_certificate(
            self.region,
            key.public_key(),
            node_id="node_1",
            now=datetime.now(UTC),
            lifetime=timedelta(days=1),
        )
        answer = wire.Credential(
            node_id="node_1",
            region=self.region.region,
            pool="default",
            certificate_pem=authority.pem(certificate),
            ca_pem=self.region.certificate_pem,
            expires_at=certificate.not_valid_after_utc.isoformat(),
        )
        credential.accept(directory, url="http://127.0.0.1", key=key, credential=answer)
        told = self.folder / "sockets.json"
        told.write_text(json.dumps({id: str(path) for id, path in sockets.items()}))
        command = [sys.executable, "-P", "-m", "tests.benchmarks.peers.node"]
        command += [str(directory), str(told), str(self.port)]
        paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"}
        program = Program.start(command, self.folder / "relay.log", paths)
        program.listens(self.port)
        return program

    def gateway_settings(self) -> dict[str, str]:
        """Of a gateway that may call it."""
        key = Ed25519PrivateKey.generate()
        certificate = authority.gateway_certificate(
            self.region, key.public_key(), gateway_id="gw-1", now=datetime.now(UTC)
        )
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        files = {
            "STOA_GATEWAY_CERTIFICATE": authority.pem(certificate).encode(),
            "STOA_GATEWAY_KEY": pem,
            "STOA_GATEWAY_CA": self.region.certificate_pem.encode(),
        }
        for name, content in files.items():
            (self.folder / name).write_bytes(content)
        return {name: str(self.folder / name) for name in files}
