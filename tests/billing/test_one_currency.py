"""One entity bills in one currency: another is refused before anything is used."""

import pytest

from billing import errors
from billing.invoices import profiles
from billing.models import Account, Customer
from compliance import audit
from tests.billing import invoices
from tests.billing.events import MONTH

pytestmark = pytest.mark.django_db


def test_an_issuer_bills_in_the_currency_of_its_country(account: Account) -> None:
    with pytest.raises(errors.ProfileRefused, match="in DE bills in EUR") as refused:
        profiles.set_entity(invoices.ISSUER | {"currency": "SEK"}, actor=audit.SYSTEM, now=MONTH)
    assert refused.value.field == "currency"


def test_an_account_in_another_gets_no_billing_profile(account: Account) -> None:
    invoices.entity()
    Account.objects.update(currency="SEK")
    with pytest.raises(errors.ProfileRefused, match=r"is in SEK, and .* bills in EUR alone"):
        profiles.set_profile(account.id, {}, actor=audit.SYSTEM, now=MONTH)
    assert not Customer.objects.filter(account=account).exists()
