"""`stoa prices`: what holds, and the operator's ways to change what will.

    prices [--account ACC] [--json]
    prices publish METER AMOUNT --from TIME [--kind KIND] [--to TIME] [--account ACC]
    prices withdraw METER --at TIME [--kind KIND] [--account ACC]
    prices agree allowance|commitment|tier --account ACC --from TIME …

An AMOUNT is for an hour of a device, or a million tokens. A TIME is RFC 3339 with its zone.
"""

import json
from argparse import ArgumentParser, ArgumentTypeError
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing import errors
from billing.models import Account
from billing.pricing import agreements, price_list, prices
from billing.pricing.terms import Allowance, Commitment, Tier
from compliance import audit


class Command(BaseCommand):
    help = "List prices, publish and withdraw them, and agree on terms with an account."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true")
        parser.add_argument("--account", default="", help="what it pays, not the list")
        verbs = parser.add_subparsers(dest="verb")
        publish = verbs.add_parser("publish", help="a new version, for the future")
        publish.add_argument("meter")
        publish.add_argument("amount", type=_decimal)
        publish.add_argument("--from", dest="valid_from", type=_time, required=True)
        publish.add_argument("--to", dest="valid_to", type=_time)
        withdraw = verbs.add_parser("withdraw", help="no such price from some time on")
        withdraw.add_argument("meter")
        withdraw.add_argument("--at", type=_time, required=True)
        for each in (publish, withdraw):
            each.add_argument("--kind", dest="device_kind", default="", help="of device")
            each.add_argument("--currency", default="EUR")
            each.add_argument("--account", default="", help="its own, in place of the list's")
        agree = verbs.add_parser("agree", help="from the start of a month to come on")
        agree.add_argument("kind", choices=("allowance", "commitment", "tier"))
        agree.add_argument("--account", required=True)
        agree.add_argument("--from", dest="valid_from", type=_time, required=True)
        agree.add_argument("--meter", default="")
        agree.add_argument("--device-kind", default="")
        agree.add_argument("--quantity", type=int, default=0, help="free, or passed by a tier")
        agree.add_argument("--discount", type=int, default=0, help="thousandths of the price")
        agree.add_argument("--amount", type=_decimal, default=Decimal(0))
        agree.add_argument("--note", default="")

    def handle(self, *_: Any, verb: str | None, **options: Any) -> None:
        now = timezone.now()
        try:
            if verb is None:
                self._list(options["account"], now, as_json=options["json"])
            elif verb == "agree":
                row = agreements.agree(
                    actor=audit.SYSTEM, account_id=options["account"], term=_term(options), now=now
                )
                self.stdout.write(f"{row.id} holds from {row.valid_from.isoformat()} on")
            else:
                names = ("meter", "device_kind", "currency")
                who = {"actor": audit.SYSTEM, "now": now, "account_id": options["account"]}
                what = {name: options[name] for name in names} | who
                if verb == "publish":
                    when = {name: options[name] for name in ("amount", "valid_from", "valid_to")}
                    price = prices.publish(**what, **when)
                else:
                    price = prices.withdraw(**what, at=options["at"])
                self.stdout.write(f"{price.id} from {price.valid_from.isoformat()} on")
        except (errors.BillingError, ValueError) as error:
            raise CommandError(str(error)) from error

    def _list(self, account_id: str, now: datetime, *, as_json: bool) -> None:
        currency = "EUR"
        if account_id:
            account = Account.objects.filter(pk=account_id).first()
            if account is None:
                raise errors.UnknownAccount(account_id)
            currency = account.currency
        versions = prices.versions(currency, account_id)
        for one in price_list.at(versions, now, currency=currency, account_id=account_id):
            if as_json:
                self.stdout.write(json.dumps(asdict(one), default=str))
                continue
            amount = "no price" if one.amount is None else f"{one.amount.normalize():f} {currency}"
            own = f" (its own; the list says {one.list_amount})" if one.own else ""
            self.stdout.write(f"{one.sku:40} {amount} for {one.unit_size}{own}")


def _term(options: dict[str, Any]) -> Allowance | Commitment | Tier:
    start, note, amount = options["valid_from"], options["note"], options["amount"]
    if options["kind"] == "commitment":
        return Commitment("", start, amount, note=note)
    meter, kind, quantity = options["meter"], options["device_kind"], options["quantity"]
    if options["kind"] == "tier":
        return Tier("", start, meter, quantity, options["discount"], kind, note)
    return Allowance("", start, meter, kind, quantity, amount, note=note)


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ArgumentTypeError(f"no amount: {text!r}") from None


def _time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ArgumentTypeError(f"a time with its zone, such as 2026-11-01T00:00:00Z: {text!r}")
    return moment
