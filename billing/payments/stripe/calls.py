"""What each kind of call is: how it is prepared, sent, found again, and what follows from it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from billing.payments.stripe.client import Client
from billing.payments.stripe.models import CallKind, StripeCall
from billing.payments.stripe.problems import Refused, StripeProblem

Obj = dict[str, Any]
MARK = "stoa_call"  # in the metadata of what a call makes: its id
SKEW = timedelta(minutes=10)  # by which Stripe's clock may differ from ours


class Drop(StripeProblem):
    """What was asked is no longer wanted, and was never sent."""


class NotYet(StripeProblem):
    """What it needs is not there yet: later."""


@dataclass(frozen=True)
class Kind:
    """`prepare` and `done` run in a transaction that holds the call's row; the others in none.

    `prepare`: the parameters, fixed from then on; raises Drop or NotYet. `find`: what an earlier
    attempt made, or None. `done` is told the answer, `refused` that there will be none; both may
    be told twice.
    """

    prepare: Callable[[StripeCall, datetime], Obj]
    send: Callable[[Client, Obj, str], Obj]
    find: Callable[[Client, StripeCall], Obj | None]
    done: Callable[[StripeCall, Obj, datetime], None]
    refused: Callable[[StripeCall, Refused | Drop, datetime], None]


KINDS: dict[str, Kind] = {}


def register(kind: CallKind, what: Kind) -> None:
    KINDS[kind.value] = what


def ask(kind: CallKind, subject_id: str, account_id: str, *, now: datetime) -> StripeCall:
    """Writes a call into the transaction that wants it; the same one where it waits already."""
    waiting = StripeCall.objects.filter(kind=kind, subject_id=subject_id, state="waiting").first()
    if waiting:
        return waiting
    return StripeCall.objects.create(
        kind=kind, subject_id=subject_id, account_id=account_id, next_at=now, created_at=now
    )


def marked(rows: Iterator[Obj], call: StripeCall) -> Obj | None:
    """The one that carries the call's id, in lists that show at once what was made."""
    return next((one for one in rows if (one.get("metadata") or {}).get(MARK) == call.id), None)


def since(call: StripeCall) -> dict[str, int]:
    """A filter by `created` that reaches back to before the call was first sent."""
    start = call.first_sent_at or call.created_at
    return {"gte": int((start - SKEW).timestamp())}


def nothing(_call: StripeCall, _answer: Any, _now: datetime) -> None:
    """Nothing follows."""


def never(_client: Client, _call: StripeCall) -> None:
    """Doing it twice is the same as once: there is nothing to look for."""
