"""Money that was asked for after a backup is not asked for twice once that backup is back."""

from datetime import UTC, datetime, timedelta

import pytest

from billing.models import Account, Customer, Debit, Entity
from billing.payments import debits
from compliance import audit, tombstones
from compliance.models import Tombstone
from tests.billing import invoices
from tests.billing.test_receipts import bill
from tests.billing.test_statements import WHO, mandate

pytestmark = pytest.mark.django_db
TOLD = datetime(2026, 11, 13, tzinfo=UTC)


@pytest.fixture
def entity(db: None) -> Entity:
    return invoices.entity(creditor_id="DE98ZZZ09999999999")


def told(action: str) -> Tombstone:
    """The tombstone of a verb, as the journal has it and the restored database has not."""
    stone = Tombstone.objects.get(action=action)
    stone.delete()
    return stone


def lost(action: str, kind: str, id: str, **facts: str) -> Tombstone:
    audit.record(
        actor=WHO,
        action=action,
        target=audit.Target(kind, id),
        log=audit.PLATFORM,
        now=TOLD,
        change=[audit.Change(name, None, value) for name, value in facts.items()],
    )
    return told(action)


def test_announced_debits_are_called_off_where_a_file_went_to_the_bank(
    account: Account, entity: Entity
) -> None:
    invoices.customer(account, entity, collection="debit")
    bill(account, entity, 1190)
    signed = mandate(account)
    (debit,) = debits.announce(actor=WHO, now=TOLD)
    sent = lost("debit.collect", "collection", "ddf_1")
    assert tombstones.replay([sent], TOLD) == {"debit.collect": 1}
    assert Debit.objects.get(id=debit.id).state == "cancelled"
    # Announced anew, with a notice in which the bank's statements come.
    later = TOLD + timedelta(days=1)
    (debit,) = debits.announce(actor=WHO, now=later)
    assert debits.collect(actor=WHO, now=later) == []
    debits.revoke_mandate(signed, actor=WHO, now=later)
    revoked = told("mandate.revoke")
    type(signed).objects.filter(id=signed.id).update(revoked_on=None)
    assert tombstones.replay([revoked], later) == {"mandate.revoke": 1}
    signed.refresh_from_db()
    assert signed.revoked_on is not None


def test_what_a_provider_was_asked_for_waits_for_a_person(account: Account, entity: Entity) -> None:
    customer = invoices.customer(account, entity, collection="stripe")
    owed = bill(account, entity, 1190)
    asked = lost("payment.ask", "stripe_payment", "spy_1", invoice=owed.id)
    gone = lost("payment.ask", "stripe_payment", "spy_2", invoice="inv_gone")
    assert tombstones.replay([asked, gone], TOLD) == {"payment.ask": 1}
    assert Customer.objects.get(pk=customer.pk).collection == "transfer"
