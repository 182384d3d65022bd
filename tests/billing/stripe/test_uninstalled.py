"""Without the package `stripe` all else works, and what needs it says what to install."""

import importlib
import importlib.abc
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
from pytest_django import Settings

import billing
import workers
from billing.einvoice import validate
from billing.invoices import month_end
from billing.models import Account, Invoice
from billing.payments import receipts
from billing.payments.stripe import configuration, steps
from billing.payments.stripe.problems import NotConfigured
from compliance import audit
from tests.billing import invoices
from tests.billing.events import MONTH, NOW
from tests.billing.invoices import NEXT, answers


class Refuses(importlib.abc.MetaPathFinder):
    """Finds no `stripe`, as where it is not installed, and remembers who asked."""

    def __init__(self) -> None:
        self.asked = 0

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] == "stripe":
            self.asked += 1
            raise ModuleNotFoundError("No module named 'stripe'", name="stripe")
        return None


@pytest.fixture
def uninstalled() -> Iterator[Refuses]:
    gone = {
        name: sys.modules.pop(name)
        for name in list(sys.modules)
        if name.partition(".")[0] == "stripe"
    }
    finder = Refuses()
    sys.meta_path.insert(0, finder)
    yield finder
    sys.meta_path.remove(finder)
    sys.modules.update(gone)


def test_every_module_of_billing_and_of_the_workers_loads_without_it(uninstalled: Refuses) -> None:
    """Anew, since this process has loaded them already."""
    ours = ("billing.payments", "controlplane.api.payment_views", "controlplane.api.stripe_webhook")
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith(ours)}
    models = [name for name in kept if name.endswith(".models")]
    sys.modules.update({name: kept[name] for name in models})  # Django holds the tables
    try:
        for room in (billing, workers):
            for found in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
                if ".migrations" not in found.name and "__main__" not in found.name:
                    importlib.import_module(found.name)
        importlib.import_module("controlplane.api.stripe_webhook")
        importlib.import_module("controlplane.api.payment_views")
    finally:
        sys.modules.update(kept)
    assert uninstalled.asked == 0


@pytest.mark.django_db
@pytest.mark.usefixtures("price_list")
def test_a_month_is_closed_and_paid_without_it(
    uninstalled: Refuses, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drafted, final, paid by bank transfer; the worker's steps for Stripe cost nothing."""
    monkeypatch.setattr(validate, "schematron", lambda xml: [])
    entity = invoices.entity()
    invoices.customer(account, entity)
    invoices.served(account, NOW, 36_000)
    closing = month_end.close_month(MONTH, NEXT, ask=answers())
    assert closing.outcomes == {"final": 1}
    made = Invoice.objects.get()
    receipts.receive(
        key="camt:1",
        entity_id=entity.id,
        account_id=account.id,
        amount=made.due,
        currency="EUR",
        method="transfer",
        received_at=NEXT,
        invoice_ids=(made.id,),
        now=NEXT,
        actor=audit.SYSTEM,
    )
    steps.tend(NEXT)
    steps.tend_slowly(NEXT)
    made.refresh_from_db()
    assert made.state == "paid"
    assert uninstalled.asked == 0


@pytest.mark.django_db
def test_turned_on_without_it_says_what_to_install(
    uninstalled: Refuses, settings: Settings
) -> None:
    settings.STRIPE_API_KEY = "sk_test_1"
    assert not configuration.installed()
    with pytest.raises(NotConfigured, match="pip install 'stripe"):
        steps.tend(NEXT)
    settings.STRIPE_API_KEY = ""
    steps.tend(NEXT)
