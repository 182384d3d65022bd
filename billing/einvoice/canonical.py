"""The document as frozen bytes: canonical JSON (RFC 8785), amounts as strings, and back."""

import msgspec
import rfc8785

from billing.einvoice.document import Invoice

FORMAT = "stoa-invoice-1"


class Unreadable(ValueError):
    """These bytes are no frozen document, or not in canonical form."""


def dumps(document: Invoice) -> bytes:
    return rfc8785.dumps({"format": FORMAT, "document": msgspec.to_builtins(document)})


def loads(frozen: bytes) -> Invoice:
    """Raises Unreadable for anything that `dumps` would not have written, byte for byte."""
    try:
        envelope = msgspec.json.decode(frozen)
        if not isinstance(envelope, dict) or envelope.get("format") != FORMAT:
            raise Unreadable(f"not a document of the format {FORMAT}")
        document = msgspec.convert(envelope.get("document"), Invoice)
    except (msgspec.DecodeError, TypeError) as error:
        raise Unreadable(str(error)) from error
    # Unknown fields, other spellings of a number and reordered keys would all be lost in silence.
    if dumps(document) != frozen:
        raise Unreadable("not in canonical form")
    return document
