"""The verbs of invoices, one after the other, as `tests/test_verbs.py` walks them."""

import hashlib
from collections.abc import Callable
from datetime import date, datetime
from typing import Any

from billing import tenants
from billing.invoices import archive, crediting, invoicing, profiles, vault
from billing.invoices.models import Form
from billing.meters import usage
from billing.models import Account, InvoiceFile
from compliance.subjects import ORGANIZATION, Subject
from tests.billing import invoices
from tests.billing.events import seconds


def walk(do: Callable[..., Any], account_id: str, now: datetime) -> None:
    do(profiles.set_entity, "entity.update", invoices.ISSUER)
    do(profiles.set_profile, "billing_profile.update", account_id, invoices.BUYER)
    usage.record([seconds(Account.objects.get(pk=account_id), now, 36_000)])
    later = now.replace(month=now.month + 2)
    drafted = invoicing.draft(account_id, now, later)
    assert drafted is not None
    do(invoicing.hold, "invoice.hold", drafted, reason="waits", because="it waits")
    made = do(invoicing.finalise, "invoice.finalise", drafted.id, now=later)
    do(crediting.credit, "invoice.credit", made.id, "A gift", now=later)
    again = invoicing.draft(account_id, now, later, again=True)
    assert again is not None
    made = do(invoicing.finalise, "invoice.finalise", again.id, now=later)
    do(crediting.write_off, "invoice.write_off", made.id, "Gone", now=later)
    InvoiceFile.objects.create(
        invoice=made,
        form="ubl",
        content=b"old",
        sha256=hashlib.sha256(b"old").hexdigest(),
        keep_until=date(2020, 12, 31),
        created_at=now,
    )
    do(archive.destroy, "archive.destroy", made.id)
    vault.enclose(account_id, Subject(ORGANIZATION, tenants.home(account_id).log), later)
    do(vault.read, "vault.read", invoice=made, form=Form.PDF, reason="an audit")
