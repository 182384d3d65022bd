"""TLS of the agents' door: one context for each region, chosen by the name that a caller asks for.

Under that name (`wire.door_name`) the door shows a certificate of the region's authority and takes
certificates of it alone. A new region counts within REFRESH_S; keys are drawn here, live as long as
the process, and get a new certificate at half of its life. Without such a name there is a
certificate that proves nothing: enough to fetch an authority whose hash the caller knows.

A handshake needs no certificate, because who joins has none; and one that has expired passes it,
so that the request is refused with words (`fleet.credentials`). What a connection has shown stands
in the scope of each of its requests.
"""

import asyncio
import logging
import ssl
import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from django.db import Error
from django.utils import timezone
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from controlplane.api import threads
from controlplane.fleet import authority, issuance, wire
from controlplane.fleet.models import Region

log = logging.getLogger(__name__)

REFRESH_S = 2.0
PEER = "stoa.peer"  # in a request's scope: SHA-256 of its connection's certificate, or ""
_NO_CHECK_TIME = 0x200000  # OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which `ssl` does not name


class Protocol(HttpToolsProtocol):
    """Puts what the connection has shown into each request's scope."""

    _peer = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        shown = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        if shown is not None:
            self._peer = authority.sha256(x509.load_der_x509_certificate(shown))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope[PEER] = self._peer


@dataclass(frozen=True)
class _Shown:
    """What is shown to a region's nodes, and until when it need not be made anew."""

    context: ssl.SSLContext
    fresh_until: datetime


class Contexts:
    """The door's contexts; `default` is the one that a listener starts with."""

    def __init__(self) -> None:
        self._regions: dict[str, _Shown] = {}
        key = ec.generate_private_key(ec.SECP256R1())
        self.default = _context(key, [_anonymous(key)])
        self.default.sni_callback = self._choose

    def refresh(self, now: datetime) -> None:
        """Take new regions in, and renew what is half over. Raises django.db.Error.

        A region whose authority cannot be opened keeps what it shows, and nobody else waits for it.
        """
        for region in Region.objects.all():
            try:
                self._refresh(region, now)
            except Error:
                raise
            except Exception:  # a seal that is broken, a disk that is full
                log.exception("agents' door: no certificate can be made for %s", region.code)

    def _refresh(self, region: Region, now: datetime) -> None:
        name = wire.door_name(authority.pin(region.ca_certificate).removeprefix("sha256:"))
        known = self._regions.get(name)
        if known is None or now >= known.fresh_until:
            self._regions[name] = _certified(region, now)

    async def keep(self) -> None:
        while True:
            try:
                await threads.on_thread(self.refresh, timezone.now())
            except Error as error:
                log.warning("agents' door: no database: %s", error)
            await asyncio.sleep(REFRESH_S)

    def _choose(
        self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext
    ) -> None:
        found = self._regions.get(name or "")
        if found is not None:
            connection.context = found.context


def _certified(region: Region, now: datetime) -> _Shown:
    opened = issuance.opened(region)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = authority.door_certificate(opened, key.public_key(), now=now)
    context = _context(key, [certificate])
    context.load_verify_locations(cadata=region.ca_certificate)
    return _Shown(context, now + (certificate.not_valid_after_utc - now) / 2)


def _context(key: ec.EllipticCurvePrivateKey, chain: list[x509.Certificate]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= _NO_CHECK_TIME
    context.set_alpn_protocols(["http/1.1"])
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    # OpenSSL takes a chain from a file alone; this one is gone when it has read it.
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # mode 0600
        file.write(private + b"".join(authority.pem(one).encode() for one in chain))
        file.flush()
        context.load_cert_chain(file.name)
    return context


def _anonymous(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Stoa: ask with a pin")])
    now = timezone.now()
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - authority.BACKDATED)
    return builder.not_valid_after(now + timedelta(days=3650)).sign(key, hashes.SHA256())
