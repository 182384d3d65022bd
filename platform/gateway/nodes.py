"""What nodes' relays show of themselves, and when it counts no more: it has ended or was revoked.

A revocation names the node, and until when what was issued to it is worth nothing, as at relays
and at the agents' door: a certificate that it was given later is good.
"""

import asyncio
import math
import ssl
from collections.abc import Mapping
from typing import NamedTuple

BACKDATED_S = 300.0  # authorities date certificates back by so much


class Shown(NamedTuple):
    """Who a relay proved to be: spiffe://stoa/region/R/node/ID, since and until when (Unix
    seconds)."""

    name: str
    issued_at: float
    ends_at: float

    def revoked(self, revoked: Mapping[str, float]) -> bool:
        return self.issued_at <= revoked.get(self.name, 0.0)


NOBODY = Shown("", 0.0, math.inf)


def name(region: str, node_id: str) -> str:
    """As its certificates say it."""
    return f"spiffe://stoa/region/{region}/node/{node_id}"


def shown(transport: asyncio.BaseTransport) -> Shown:
    """What the certificate says that the handshake has verified. NOBODY without one such name."""
    tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    certificate = (tls and tls.getpeercert()) or {}
    names = [
        str(entry[1])
        for entry in certificate.get("subjectAltName", ())
        if entry[0] == "URI" and str(entry[1]).startswith("spiffe://stoa/")
    ]
    if len(names) != 1:
        return NOBODY
    began, ends = (
        ssl.cert_time_to_seconds(str(certificate[bound])) for bound in ("notBefore", "notAfter")
    )
    return Shown(names[0], began + BACKDATED_S, ends)
