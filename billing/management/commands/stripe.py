"""`stoa stripe`: what Stripe collects for us, for the operator."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from billing.payments.stripe import checking, client, meters, movements
from billing.payments.stripe.models import CallState, StripeCall
from billing.payments.stripe.problems import StripeProblem
from compliance import audit


class Command(BaseCommand):
    help = "Compare our books with Stripe's, give money back, see what waits, make its meters."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        verbs.add_parser("check", help="book what is new of Stripe's balance, and compare")
        refund = verbs.add_parser("refund", help="give money of a payment back")
        refund.add_argument("payment", help="spy_…, as the payments of an invoice show it")
        refund.add_argument("cents", type=int)
        verbs.add_parser("waiting", help="what was asked of Stripe and is not done")
        verbs.add_parser("make-meters", help="make the meters that STOA_STRIPE_METERS tells")

    def handle(self, *_: Any, **options: Any) -> None:
        run = {
            "check": self._check,
            "refund": self._refund,
            "waiting": self._waiting,
            "make-meters": self._make_meters,
        }[options["verb"]]
        try:
            run(options)
        except StripeProblem as problem:
            raise CommandError(str(problem)) from problem

    def _check(self, _: dict[str, Any]) -> None:
        differences = checking.run(client.connect(), timezone.now()).differences
        for each in differences:
            self.stdout.write(str(each))
        if differences:
            raise CommandError(f"{len(differences)} differences")
        self.stdout.write("Stripe's books and ours agree")

    def _refund(self, options: dict[str, Any]) -> None:
        call = movements.refund(
            options["payment"], options["cents"], actor=audit.SYSTEM, now=timezone.now()
        )
        self.stdout.write(f"asked for ({call.id}); the worker sends it")

    def _waiting(self, _: dict[str, Any]) -> None:
        rows = StripeCall.objects.filter(state=CallState.WAITING).order_by("created_at")
        for call in rows:
            self.stdout.write(f"{call.id} {call} {call.attempts} attempts {call.problem[:120]}")

    def _make_meters(self, _: dict[str, Any]) -> None:
        for name in meters.make(client.connect()):
            self.stdout.write(f"made {name}")
