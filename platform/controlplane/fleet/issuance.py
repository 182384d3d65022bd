"""The regions' authorities as the database keeps them: their keys are sealed, opened to sign."""

from datetime import datetime, timedelta

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.conf import settings

from compliance import sealing
from controlplane.fleet import authority, wire
from controlplane.fleet.models import Node, Region


def found(region: Region, now: datetime) -> None:
    """Give a new region its authority; the caller saves."""
    created = authority.create(region.code, now=now)
    region.ca_certificate = created.certificate_pem
    region.ca_key = sealing.seal(created.key_pem, context=_context(region))


def opened(region: Region) -> authority.Authority:
    """The region's authority, ready to sign. Raises sealing.SealBroken."""
    key_pem = sealing.unseal(bytes(region.ca_key), context=_context(region))
    return authority.Authority.open(region.code, region.ca_certificate, key_pem)


def certify(node: Node, key: authority.LeafKey, now: datetime) -> wire.Credential:
    """Sign `key` for `node` and set its certificate's fields; the caller saves."""
    region = node.pool.region
    certificate = authority.node_certificate(
        opened(region),
        key,
        node_id=node.id,
        now=now,
        lifetime=timedelta(seconds=settings.NODE_CERTIFICATE_S),
    )
    node.certificate_sha256 = authority.sha256(certificate)
    node.certificate_expires_at = certificate.not_valid_after_utc
    return wire.Credential(
        node_id=node.id,
        region=region.code,
        pool=node.pool.name,
        certificate_pem=authority.pem(certificate),
        ca_pem=region.ca_certificate,
        expires_at=certificate.not_valid_after_utc.isoformat(),
    )


def record_key(region_code: str) -> tuple[Ed25519PrivateKey, str]:
    """The key with which a region signs records, and its public part (PEM); drawn for the first.

    Within a transaction. Raises sealing.SealBroken.
    """
    region = Region.objects.select_for_update().get(pk=region_code)
    context = f"region:{region.code}:record"
    if region.record_key is None:
        key = Ed25519PrivateKey.generate()
        raw = key.private_bytes_raw()
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        region.record_key = sealing.seal(raw, context=context)
        region.record_public_key = public.decode()
        region.save(update_fields=("record_key", "record_public_key"))
        return key, region.record_public_key
    raw = sealing.unseal(bytes(region.record_key), context=context)
    return Ed25519PrivateKey.from_private_bytes(raw), region.record_public_key


def _context(region: Region) -> str:
    return f"region:{region.code}:ca"
