"""Whatever breaks, and wherever we die: each invoice is paid once, or says why not."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import services
from billing.models import Entity, Invoice
from billing.payments.stripe import (
    checking,
    configuration,
    events,
    hosted,
    landing,
    movements,
    outbox,
    paying,
)
from billing.payments.stripe.client import Client
from billing.payments.stripe.configuration import Configuration
from billing.payments.stripe.models import LIVE, StripeCall, StripePayment
from billing.payments.stripe.problems import StripeProblem, Unavailable
from compliance import audit
from tests.billing import invoices
from tests.billing.events import MONTH
from tests.billing.stripe import payer
from tests.billing.stripe.payer import Clock, House
from tests.stripe_server import checkout, payments
from tests.stripe_server.problems import Problem
from tests.stripe_server.server import KEY, FakeStripe, serving
from tests.stripe_server.store import Obj

pytestmark = pytest.mark.django_db


def customers_with_invoices(
    house: House, entity: Entity, kinds: list[tuple[str, str]]
) -> list[Invoice]:
    made = []
    for number, (kind, behaviour) in enumerate(kinds):
        account = services.open_account(name=f"Customer {number}", now=MONTH)
        invoices.customer(account, entity, collection="stripe")
        made.append(payer.final_invoice(account, entity))
        payer.gives(house.fake, house.client, account, kind, behaviour, now=house.clock())
    return made


def settle_all(house: House) -> None:
    for intent in list(house.fake.store.all("payment_intent", status="processing")):
        payments.settle(house.fake.store, intent["id"])


def test_stripe_is_away_at_month_end(house: House, entity: Entity) -> None:
    """For 30 hours nothing is lost, and nothing twice; what it had done before it broke counts."""
    made = customers_with_invoices(house, entity, [("card", "ok"), ("sepa_debit", "ok")] * 4)
    found = configuration.current()
    assert found is not None
    broken = Random(11)
    house.fake.fault = lambda method, path: broken.choice(["cut_after", "cut_before"])
    assert paying.collect(found, house.clock()) == len(made)
    for _ in range(60):
        outbox.deliver(house.client, house.clock())
        house.clock.pass_by(minutes=30)
    assert StripePayment.objects.filter(state="asked").count() == len(made)
    assert outbox.overdue(house.clock()) > 0
    house.fake.fault = lambda method, path: ""
    house.clock.pass_by(hours=1)
    house.work()
    settle_all(house)
    house.work()
    charged = Counter(one["metadata"]["invoice"] for one in house.fake.store.all("payment_intent"))
    assert charged == {one.id: 1 for one in made}
    assert set(Invoice.objects.values_list("state", flat=True)) == {"paid"}
    assert checking.run(house.client, house.clock()).differences == []


class Killed(BaseException):
    """As kill -9: no handler of ours sees it, and an open transaction is gone."""


STEPS = (
    *((outbox, name) for name in ("_lease", "_ask", "_close", "_mark")),
    *((events, name) for name in ("_lease", "_handled", "_settle")),
    *((landing, name) for name in ("received", "taken", "restored")),
)


@contextmanager
def deadly(chance: Random, rate: float) -> Iterator[None]:
    """Dies at random before and after each step: leased, sent, answered, booked."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in STEPS:
            patch.setattr(module, name, _dying(getattr(module, name), chance, rate))
        yield


def _dying(inner: Callable[..., Any], chance: Random, rate: float) -> Callable[..., Any]:
    def run(*arguments: Any, **named: Any) -> Any:
        if chance.random() < rate:
            raise Killed
        found = inner(*arguments, **named)
        if chance.random() < rate:
            raise Killed
        return found

    return run


@dataclass
class Storm:
    """A month end with workers that die, a Stripe that breaks, and webhooks as they please."""

    house: House
    chance: Random

    def blow(self, steps: int) -> None:
        work = (
            lambda: outbox.deliver(self.house.client, self.house.clock()),
            lambda: events.process(self.house.client, self.house.clock()),
            lambda: paying.look(self.house.client, self.house.clock()),
            lambda: paying.collect(self.house.client.configuration, self.house.clock()),
            lambda: self.house.hooks.deliver(chance=self.chance, repeat=0.3, drop=0.1, hold=0.3),
            lambda: checking.run(self.house.client, self.house.clock()),
            self._bank_answers,
            self._refund,
            self._pay_on_page,
            lambda: hosted.look(self.house.client, self.house.clock()),
            lambda: hosted.tidy(self.house.clock()),
        )
        for _ in range(steps):
            with suppress(Killed, Unavailable):
                self.chance.choice(work)()
            self.house.clock.pass_by(minutes=self.chance.choice((0, 1, 5, 60, 600)))

    def calm(self) -> None:
        """Nothing breaks any more: what is left is worked off, and what nobody told is found."""
        for _ in range(6):
            self.house.clock.pass_by(hours=2)
            self.house.work()
            settle_all(self.house)
            paying.look(self.house.client, self.house.clock())
            hosted.look(self.house.client, self.house.clock())
        checking.run(self.house.client, self.house.clock())
        self.house.work()

    def _bank_answers(self) -> None:
        store = self.house.fake.store
        under_way = list(store.all("payment_intent", status="processing"))
        if under_way:
            payments.settle(store, self.chance.choice(under_way)["id"])
        charged = [one for one in store.all("charge", disputed=False) if not one["refunded"]]
        if charged and self.chance.random() < 0.2:
            made = payments.dispute(store, self.chance.choice(charged)["payment_intent"])
            if made["status"] != "lost":
                payments.close_dispute(store, made["id"], won=self.chance.random() < 0.5)

    def _pay_on_page(self) -> None:
        """Somebody goes to Stripe's page, and tries a card or two there, or an account."""
        store = self.house.fake.store
        paid = StripePayment.objects.filter(state="succeeded").values("invoice_id")
        left = Invoice.objects.filter(state="final").exclude(id__in=paid)
        with suppress(StripeProblem):
            for invoice in left.order_by("id")[:1]:
                hosted.begin(
                    self.house.client,
                    invoice.id,
                    **payer.PAGES,
                    actor=audit.SYSTEM,
                    now=self.house.clock(),
                )
        for page in list(store.all("checkout.session", status="open", mode="payment")):
            kind, behaviour = self.chance.choice(KINDS)
            with suppress(Problem):
                checkout.complete(store, page["id"], kind, behaviour)
                if behaviour == "authentication":
                    checkout.authenticated(store, page["id"], passed=self.chance.random() < 0.7)

    def _refund(self) -> None:
        for payment in StripePayment.objects.filter(state="succeeded").order_by("id")[:1]:
            with suppress(movements.CannotRefund):
                movements.refund(payment.id, 100, actor=audit.SYSTEM, now=self.house.clock())


KINDS = (
    *(("card", "ok"), ("card", "ok"), ("card", "declined")),
    *(("sepa_debit", "ok"), ("sepa_debit", "fails"), ("card", "authentication")),
)


@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.integers(0, 2**32), st.sampled_from((0.0, 0.1, 0.3)), st.sampled_from((0.0, 0.1, 0.5)))
def test_nothing_is_charged_twice_and_nothing_is_lost(
    db: None, seed: int, deaths: float, faults: float
) -> None:
    chance, clock = Random(seed), Clock()
    fake = FakeStripe(clock)
    with serving(fake), transaction.atomic():
        client = Client(Configuration(KEY, (payer.SECRET,), fake.url))
        house = House(fake, client, clock)
        entity = invoices.entity()
        made = customers_with_invoices(house, entity, [chance.choice(KINDS) for _ in range(3)])
        storm = Storm(house, chance)
        breaks = ("500_before", "500_after", "cut_before", "cut_after", "429")
        fake.fault = lambda method, path: chance.choice(breaks) if chance.random() < faults else ""
        with deadly(chance, deaths):
            storm.blow(50)
        fake.fault = lambda method, path: ""
        storm.calm()
        _agree(house, entity, made)
        transaction.set_rollback(True)


def _agree(house: House, entity: Entity, made: list[Invoice]) -> None:
    store = house.fake.store
    assert not StripeCall.objects.filter(state="waiting").exists()
    assert checking.run(house.client, house.clock()).differences == []
    assert house.clearing(entity) == store.balance()
    refunds = Counter(one["metadata"]["stoa_call"] for one in store.all("refund"))
    done = StripeCall.objects.filter(kind="refund", state="done").values_list("id", flat=True)
    assert refunds == Counter(done)
    for invoice in made:
        invoice.refresh_from_db()
        mine = [
            one
            for one in store.all("payment_intent", status="succeeded")
            if one["metadata"]["invoice"] == invoice.id
        ]
        assert len(mine) <= 1
        live = StripePayment.objects.filter(invoice_id=invoice.id, state__in=LIVE)
        assert not live.exists()
        assert invoice.settled == sum(_kept(house, one) for one in mine)


def _kept(house: House, intent: Obj) -> int:
    """What Stripe has of a payment after refunds and disputes."""
    store = house.fake.store
    back: int = sum(one["amount"] for one in store.all("refund", payment_intent=intent["id"]))
    for dispute in store.all("dispute", payment_intent=intent["id"]):
        back += int(dispute["amount"]) if dispute["status"] != "won" else 0
    return int(intent["amount_received"]) - back
