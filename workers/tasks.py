"""What Celery runs. Thin: take the time, call the room that knows how. Arguments are ids alone."""

import time

from django.utils import timezone

from billing.credit import advances
from billing.invoices import month_end
from billing.payments.stripe import steps as stripe_steps
from compliance import exports, partitions
from compliance.erasure import executing
from compliance.log import subscriptions
from compliance.privacy import records, retention
from controlplane.endpoints import engine_blocking, funding, served_days, speed_lessons
from workers import (
    digesting,
    funds,
    keeping,
    keykeeping,
    logkeeping,
    metering,
    nightly,
    provisioning,
    reconciling,
    settling,
    sleeping,
    unconfirmed,
    upkeep,
)
from workers.backup import running, schedule
from workers.backup.config import Config
from workers.celery import HINT_EXPIRES_S, app

# Of one meter task; the next goes on where it stopped.
_REQUESTS, _BATCHES = 10_000, 5
_INTERVALS = 2000
_SEQUENCE_S = 5.0  # of one task; so are these
_DELIVER_S = 20.0
_RETAIN_S = 30.0
_MONTH_S = 30.0  # of one task; the next one goes on where it stopped


@app.task(expires=HINT_EXPIRES_S)
def reconcile(endpoint_id: str) -> None:
    provisioning.reconcile(endpoint_id, now=timezone.now())


@app.task
def sweep() -> None:
    provisioning.sweep()


@app.task
def tend_nodes() -> None:
    keeping.tend(timezone.now())


@app.task
def meter() -> None:
    for _ in range(_BATCHES):
        if metering.book_requests(timezone.now(), limit=_REQUESTS) < _REQUESTS:
            break
    metering.meter_replicas(timezone.now(), limit=_INTERVALS)
    sleeping.meter(timezone.now())
    settling.give_back(timezone.now())


@app.task
def accrue() -> None:
    metering.accrue_hours(timezone.now())


@app.task
def prove() -> None:
    now = timezone.now()
    digesting.digest(now)
    reconciling.reconcile(now)


@app.task
def tend_budgets() -> None:
    now = timezone.now()
    funds.tend(now)
    upkeep.note_budgets(now)
    funding.close_ended(now)


@app.task
def tend_stripe() -> None:
    stripe_steps.tend(timezone.now())


@app.task
def tend_books() -> None:
    nightly.run(timezone.now())


@app.task
def tend_stripe_slowly() -> None:
    now = timezone.now()
    stripe_steps.tend_slowly(now)
    unconfirmed.tell(now)


@app.task
def tend_engines() -> None:
    now = timezone.now()
    engine_blocking.tend(now=now)
    speed_lessons.teach(now)


@app.task
def close_month() -> None:
    ends = time.monotonic() + _MONTH_S
    month_end.tend(timezone.now(), enough=lambda: time.monotonic() > ends)


@app.task
def tend_top_ups() -> None:
    ends = time.monotonic() + _MONTH_S
    advances.tend(timezone.now(), enough=lambda: time.monotonic() > ends)


@app.task
def sequence() -> None:
    ends = time.monotonic() + _SEQUENCE_S
    logkeeping.sequence(timezone.now(), lambda: time.monotonic() > ends)


@app.task
def sign_heads() -> None:
    now = timezone.now()
    logkeeping.beat(now)
    logkeeping.sign(now)


@app.task
def deliver_logs() -> None:
    ends = time.monotonic() + _DELIVER_S
    subscriptions.deliver_due(timezone.now(), lambda: time.monotonic() > ends)


@app.task
def build_exports() -> None:
    exports.build_waiting(timezone.now())


@app.task
def tend_erasures() -> None:
    executing.carry_on(timezone.now())


def tend_keys() -> None:
    keykeeping.tend(timezone.now())


@app.task
def prune() -> None:
    now = timezone.now()
    upkeep.prune_activity(now)


@app.task
def retain() -> None:
    ends = time.monotonic() + _RETAIN_S
    retention.run(timezone.now(), enough=lambda: time.monotonic() > ends)


@app.task
def keep_records() -> None:
    """Once a day for each organization: at the hour that is its own."""
    ends = time.monotonic() + _RETAIN_S
    records.keep_all(timezone.now(), enough=lambda: time.monotonic() > ends)


@app.task(name="workers.tasks.upkeep")
def hourly_upkeep() -> None:
    now = timezone.now()
    partitions.ensure_all(now)
    served_days.close(now)


@app.task
def keep_journal() -> None:
    running.ship(Config.from_env(), now=timezone.now())


@app.task
def begin_backup() -> None:
    schedule.begin(Config.from_env(), timezone.now())
