"""A document comes back from its frozen bytes, and nothing else comes back from any others."""

import hashlib

import pytest

from billing.einvoice import canonical
from tests.billing.einvoice import samples


@pytest.mark.parametrize("name", samples.ALL)
def test_it_comes_back_whole(name: str) -> None:
    document = samples.ALL[name]()
    frozen = canonical.dumps(document)
    assert canonical.loads(frozen) == document
    assert canonical.dumps(canonical.loads(frozen)) == frozen
    assert b'"amount":"' in frozen  # money is a string


def test_the_form_is_kept_for_as_long_as_invoices_are() -> None:
    """Hashes in the audit log speak of these bytes: a new form needs a new FORMAT."""
    digest = hashlib.sha256(canonical.dumps(samples.prepaid())).hexdigest()
    assert digest == "cff1cd025b0391826a66ccaea92af9f9d3d0d1ee25734b1f6e794e1b13304749"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((b'"currency":"EUR"', b'"currency":"EUR","more":1'), "canonical form"),
        ((b'"amount":"3.74"', b'"amount":"3.740"'), "two decimals"),
        ((b"stoa-invoice-1", b"stoa-invoice-9"), "format"),
        ((b'"quantity":5400', b'"quantity":5400.5'), "int"),
        ((b'"quantity":5400', b'"quantity":-9007199254740992'), "whole number"),
        ((b'"kind":"credit_note"', b'"kind":"receipt"'), "receipt"),
        ((b"{", b"["), "malformed|invalid"),
    ],
)
def test_other_bytes_are_refused(change: tuple[bytes, bytes], said: str) -> None:
    frozen = canonical.dumps(samples.credit_note())
    assert change[0] in frozen
    with pytest.raises(canonical.Unreadable, match=said):
        canonical.loads(frozen.replace(*change, 1))
