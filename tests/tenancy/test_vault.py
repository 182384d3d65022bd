"""What the books need of an organization that was erased: sealed, read with a reason, and ended."""

import hashlib
import json
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
from django.db import DatabaseError, transaction
from pytest_django import Settings

from billing import errors
from billing.invoices import freezing, vault
from billing.invoices.models import Form
from billing.models import Invoice, InvoiceFile
from compliance import audit, keys
from compliance.erasure import executing, planning
from compliance.erasure.models import Erasure, State
from compliance.keys.models import DataKey
from compliance.models import AuditEvent
from compliance.privacy import holds, retention
from compliance.subjects import ORGANIZATION, Subject
from tests.billing import invoices
from tests.signers import running
from tests.tenancy.conftest import NOW, Tenant

OPERATOR = audit.Actor("user", "usr_01k00000000000000000000009", "session")
SECOND = audit.Actor("user", "usr_01k00000000000000000000008", "session")
LATER = NOW + timedelta(minutes=1)


@pytest.fixture(autouse=True)
def signer(settings: Settings, tmp_path: Path) -> Iterator[None]:
    settings.VAR = tmp_path
    with running():
        yield


@pytest.fixture
def invoice(ours: Tenant) -> Invoice:
    """Issued to the organization, and paid."""
    entity = invoices.entity()
    made = invoices.freeze(invoices.draft(ours.organization.account, entity))
    Invoice.objects.filter(id=made.id).update(state="paid", settled=made.due, paid_at=NOW)
    made.refresh_from_db()
    return made


def erased(subject: Subject) -> Erasure:
    made = planning.plan(actor=OPERATOR, subject=subject, log=subject.id, now=NOW)
    planning.approve(actor=SECOND, erasure=made, plan_sha256=made.plan_sha256, now=NOW)
    executing.carry_on(LATER)
    made.refresh_from_db()
    assert made.state == State.ISSUED, (made.failure, made.findings)
    return made


def test_an_erasure_encloses_what_the_books_need(ours: Tenant, invoice: Invoice) -> None:
    subject = Subject(ORGANIZATION, ours.organization.id)
    plain = {one.form: bytes(one.content) for one in InvoiceFile.objects.all()}
    certificate = erased(subject).certificate
    assert certificate is not None
    (kept,) = (
        one
        for one in json.loads(bytes(certificate))["kept"]
        if one["store"] == "billing.invoice_files"
    )
    until = InvoiceFile.objects.values_list("keep_until", flat=True).distinct().get()
    assert "accounting vault" in kept["ground"]
    assert (kept["rows"], kept["until"]) == (3, until.isoformat())
    key = DataKey.objects.get(purpose=DataKey.VAULT)
    assert (key.subject_id, key.keep_until, key.destroyed_at) == (subject.id, until, None)
    for file in InvoiceFile.objects.all():
        assert file.vault_key_id == key.id
        assert plain[file.form][:64] not in bytes(file.content)
        assert file.sha256 == hashlib.sha256(plain[file.form]).hexdigest()
    assert vault.enclose(ours.organization.account_id, subject, LATER) == 0
    with pytest.raises(errors.Enclosed):
        freezing.content(invoice, Form.PDF)
    with pytest.raises(errors.ReasonMissing):
        vault.read(actor=OPERATOR, invoice=invoice, form=Form.PDF, reason=" ", now=LATER)
    for form in (Form.JSON, Form.CII, Form.PDF):
        read = vault.read(
            actor=OPERATOR, invoice=invoice, form=form, reason="tax audit of 2026", now=LATER
        )
        assert read == plain[form]
    reads = AuditEvent.objects.filter(log_id=subject.id, action="vault.read")
    assert [one.actor_id for one in reads] == [OPERATOR.id] * 3
    assert not any(b"tax audit" in bytes(one.body) for one in reads)
    # A file is sealed once; nobody swaps what lies there, nor brings it back to the open.
    for change in ({"vault_key_id": ""}, {"content": b"x"}, {"keep_until": date(2020, 1, 1)}):
        with pytest.raises(DatabaseError), transaction.atomic():
            InvoiceFile.objects.filter(form=Form.PDF).update(**change)


def test_the_vault_ends_with_its_last_day_unless_it_is_held(ours: Tenant, invoice: Invoice) -> None:
    subject = Subject(ORGANIZATION, ours.organization.id)
    old = InvoiceFile.objects.create(
        invoice=invoice,
        form="ubl",
        content=b"of 2010",
        sha256=hashlib.sha256(b"of 2010").hexdigest(),
        keep_until=date(2020, 12, 31),
        created_at=NOW,
    )
    assert vault.enclose(ours.organization.account_id, subject, NOW) == 4
    over, standing = DataKey.objects.filter(purpose=DataKey.VAULT).order_by("keep_until")
    placed = holds.place(
        actor=OPERATOR, subject=subject, log=subject.id, reason="a lawsuit", now=NOW
    )
    assert retention.carry_out("vault", NOW) == 0
    assert InvoiceFile.objects.filter(id=old.id).exists()
    holds.lift(actor=OPERATOR, hold=placed, reason="it is over", now=NOW)
    assert retention.carry_out("vault", NOW + timedelta(days=1)) == 1
    over.refresh_from_db()
    standing.refresh_from_db()
    assert over.destroyed_at is not None and over.wrapped is None
    assert standing.destroyed_at is None
    assert not InvoiceFile.objects.filter(id=old.id).exists()
    assert vault.read(actor=OPERATOR, invoice=invoice, form=Form.PDF, reason="an audit", now=NOW)
    # The organization's own keys may go: the vault's stand for the books.
    keys.destroy(subjects=[subject], actor=OPERATOR, reason_code="erasure", now=NOW)
    assert vault.read(actor=OPERATOR, invoice=invoice, form=Form.PDF, reason="an audit", now=NOW)
