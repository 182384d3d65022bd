"""What ends of the cellar's rows."""

from datetime import datetime

from billing.invoices import vault
from billing.meters import keeping
from billing.models import NodeBatch
from billing.payments.stripe.models import EventState, StripeEvent
from billing.spending import counters
from compliance.privacy import holds, retention
from compliance.privacy.retention import Held, Outcome


def register() -> None:
    retention.register("run_counter", _counters)
    retention.register("meter_evidence", _evidence)
    retention.register("vault", vault.end)
    # Of what was worked off: Stripe repeats nothing after three days.
    retention.rows(
        "stripe_event",
        lambda before: StripeEvent.objects.filter(received_at__lt=before).exclude(
            state=EventState.WAITING
        ),
    )


def _counters(*, now: datetime, before: datetime, held: Held, limit: int) -> Outcome:
    """Counters of runs and agents, and leases that are settled."""
    kept = holds.organizations(held)
    return Outcome(counters.prune(before, kept), counters.old(before, kept) if kept else 0)


def _evidence(*, now: datetime, before: datetime, held: Held, limit: int) -> Outcome:
    """The database removes it by time alone: while anybody's usage is held, all of it stays."""
    if holds.organizations(held):
        return Outcome(held=NodeBatch.objects.filter(received_at__lt=before).count())
    done = keeping.expire(before, at_once=limit, most=1)
    return Outcome(done, more=done > 0)  # records first, then the batches that they came in
