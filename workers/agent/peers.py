"""Who the other side of a TLS connection is, until when its certificate counts, and who is out."""

import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from controlplane.fleet import wire
from workers.agent import files

# Authorities date certificates back by so much (fleet.authority): a revocation goes by the time of
# issue.
BACKDATED_S = 300.0
KEPT = "revoked.json"
_ROLE = "spiffe://stoa/"


@dataclass(frozen=True)
class Peer:
    """`name`: its whole identity, spiffe://stoa/region/R/KIND/ID. Times in Unix seconds."""

    name: str
    issued_at: float
    expires_at: float

    def revoked(self, revoked: Mapping[str, float]) -> bool:
        """`revoked`: names, and until when what was issued to them counts no more."""
        return self.issued_at <= revoked.get(self.name, 0.0)

    def __str__(self) -> str:
        return self.name


def of(connection: ssl.SSLObject | ssl.SSLSocket) -> Peer | None:
    """What its certificate says, which the handshake has verified; None without one name."""
    certificate = connection.getpeercert() or {}
    names = [
        str(entry[1])
        for entry in certificate.get("subjectAltName", ())
        if len(entry) == 2 and entry[0] == "URI" and str(entry[1]).startswith(_ROLE)
    ]
    if len(names) != 1:
        return None
    begins, ends = str(certificate["notBefore"]), str(certificate["notAfter"])
    issued_at = ssl.cert_time_to_seconds(begins) + BACKDATED_S
    return Peer(names[0], issued_at, ssl.cert_time_to_seconds(ends))


def left_s(peer: Peer | None) -> float:
    """Seconds that its certificate is good for yet."""
    return 0.0 if peer is None else max(0.0, peer.expires_at - time.time())


def names(region: str, revoked: Iterable[wire.Revoked]) -> dict[str, float]:
    return {f"{_ROLE}region/{region}/{one.kind}/{one.id}": one.issued_until for one in revoked}


def keep(directory: Path, revoked: list[wire.Revoked]) -> None:
    """For the next start of the agent. Raises OSError."""
    if revoked != kept(directory):
        files.write(directory / KEPT, msgspec.json.encode(revoked))


def kept(directory: Path) -> list[wire.Revoked]:
    content = files.read(directory / KEPT)
    try:
        return msgspec.json.decode(content or b"[]", type=list[wire.Revoked])
    except msgspec.DecodeError:
        return []
