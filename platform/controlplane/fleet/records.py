"""Signed records of what left the fleet. Pure, and a program: no Django, no database.

    python -m controlplane.fleet.records RECORD.json KEY.pem

says whether a downloaded record is as its region signed it. The signature is Ed25519 over the
record as canonical JSON (RFC 8785); the key is the region's (`stoa regions --json`). Keep the key
when you get it: that a record brings one along proves nothing.
"""

import base64
import binascii
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


class NotAsSigned(Exception):
    """It was altered, or another key signed it; the message says which is known."""


def canonical(record: dict[str, Any]) -> bytes:
    return rfc8785.dumps(record)


def digest(part: Any) -> str:
    """SHA-256 of a part of a record, by which its evidence is known: 64 hexadecimal digits."""
    return hashlib.sha256(rfc8785.dumps(part)).hexdigest()


def sign(key: Ed25519PrivateKey, record: dict[str, Any]) -> str:
    """The signature, base64."""
    return base64.b64encode(key.sign(canonical(record))).decode()


def document(record: dict[str, Any], signature: str, public_key_pem: str) -> dict[str, Any]:
    """What is downloaded."""
    return {
        "record": record,
        "signature": {
            "algorithm": "Ed25519",
            "over": "record, as canonical JSON (RFC 8785)",
            "value": signature,
            "public_key": public_key_pem,
        },
    }


def verify(document: dict[str, Any], public_key_pem: str) -> dict[str, Any]:
    """The record, if this key signed it as it is. Raises NotAsSigned."""
    try:
        key = serialization.load_pem_public_key(public_key_pem.encode())
    except ValueError as error:
        raise NotAsSigned(f"the key cannot be read: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise NotAsSigned("the key is no Ed25519 key")
    try:
        record: dict[str, Any] = document["record"]
        signature = base64.b64decode(document["signature"]["value"], validate=True)
        key.verify(signature, canonical(record))
    except InvalidSignature as error:
        raise NotAsSigned("the record was altered, or another key signed it") from error
    except (KeyError, TypeError, binascii.Error, rfc8785.CanonicalizationError) as error:
        raise NotAsSigned(f"this is no signed record: {error!r}") from error
    return record


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    record_file, key_file = arguments
    try:
        record = verify(json.loads(Path(record_file).read_text()), Path(key_file).read_text())
    except (OSError, ValueError, NotAsSigned) as error:
        print(f"NOT VERIFIED: {error}", file=sys.stderr)
        return 1
    print(f"verified: {record.get('kind')} {record.get('id')}, signed {record.get('signed_at')}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
