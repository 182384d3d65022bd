"""TLS to the control plane: it shows a certificate of our region's authority, and so do we.

Whoever listens at the address is asked for by a name that only the control plane's certificate has
(`wire.door_name`), so an address may be an IP or anything else that leads there.
"""

import hashlib
import socket
import ssl
import tempfile

import httpx
from cryptography.hazmat.primitives import serialization

from controlplane.fleet import wire
from workers.agent.credential import Identity

PIN = "sha256:"
FETCH_TIMEOUT_S = 15.0


class PinError(Exception):
    """The control plane has no authority of that pin, or the pin is none; for a person."""


class DoorContext(ssl.SSLContext):
    """A client's context that asks for the control plane's own name, whatever the address."""

    door_name: str

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        return super().wrap_bio(incoming, outgoing, server_side, self.door_name, session)

    def wrap_socket(
        self,
        sock: socket.socket,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLSocket:
        how = (server_side, do_handshake_on_connect, suppress_ragged_eofs)
        return super().wrap_socket(sock, *how, self.door_name, session)


def to_door(authority_pem: str, identity: Identity | None = None) -> ssl.SSLContext:
    """For calls to the control plane, showing `identity` where there is one. Raises ValueError."""
    context = DoorContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=authority_pem)
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(authority_pem.strip())).hexdigest()
    context.door_name = wire.door_name(digest)
    if identity is not None:
        show(context, identity)
    return context


def show(context: ssl.SSLContext, identity: Identity) -> None:
    """Show this certificate from the next connection on."""
    # OpenSSL takes a chain from a file alone; this one is gone when it has read it.
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # mode 0600
        file.write(identity.key_pem())
        file.write(identity.certificate.public_bytes(serialization.Encoding.PEM))
        file.flush()
        context.load_cert_chain(file.name)


async def fetch_authority(url: str, pin: str) -> str:
    """The authority (PEM) whose hash is `pin`, from a door that has proved nothing: the hash does.

    Raises PinError, and httpx.HTTPError where nobody answers.
    """
    digest = pin.removeprefix(PIN).lower()
    if not pin.startswith(PIN) or len(digest) != 64 or digest.strip("0123456789abcdef"):
        raise PinError(f"{pin!r} is no pin: expected sha256: and 64 hexadecimal digits")
    unproved = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unproved.check_hostname, unproved.verify_mode = False, ssl.CERT_NONE
    async with httpx.AsyncClient(verify=unproved, timeout=FETCH_TIMEOUT_S, trust_env=False) as http:
        answer = await http.get(f"{url}/agent/v1/authority/{digest}")
    if answer.status_code == 404:
        raise PinError(f"{url} has no authority of this pin: ask for a new join command")
    answer.raise_for_status()
    try:
        found = hashlib.sha256(ssl.PEM_cert_to_DER_cert(answer.text.strip())).hexdigest()
    except ValueError:
        found = ""
    if found != digest:
        raise PinError(f"{url} is not the control plane that the pin names")
    return answer.text
