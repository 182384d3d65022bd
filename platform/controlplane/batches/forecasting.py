"""How long a batch takes and what it costs: predicted, corrected by its own first minute, measured.

Times are an engine's: seconds in which requests of the batch ran. What it waits while others come
first, or while its endpoint starts, is not among them. Each of a Forecast's three parts is written
once, by compare-and-set, from rows that runners write exactly once: a runner may die anywhere, and
several may look at once. `forecast_facts` has their shapes.
"""

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from django.conf import settings

from billing.models import Account, Meter
from billing.pricing import prices
from controlplane.batches import forecast_facts as facts
from controlplane.batches import spans
from controlplane.batches.catalog import Catalog
from controlplane.batches.forecast_facts import Cost
from controlplane.batches.models import Batch, Forecast, Line, LineState, Status
from controlplane.batches.spans import Ran, Work
from controlplane.batches.validating import Found
from controlplane.endpoints import engine_speed
from controlplane.endpoints.engine_speed import Unforeseen
from controlplane.endpoints.models import Endpoint
from controlplane.placement import costs
from controlplane.placement.memory.estimates import Estimate
from controlplane.placement.mix import WHOLE
from controlplane.placement.speed import forecasts
from controlplane.placement.speed.corrections import LEAST_REQUESTS, Canary, Corrected
from controlplane.placement.speed.forecasts import Runtime
from controlplane.placement.speed.load import SPREAD, Job, Shape

log = logging.getLogger(__name__)

MODELS = 8  # of one batch that are looked at
LOOKS = 12  # at what a batch has done, in the time of a canary at most
MOST = 20  # forecasts in one turn
SPARE = 0.75  # of an engine's places, that gateways give to batches unless they are told otherwise


def count(batch: Batch, found: Iterable[Found], now: datetime) -> None:
    """Adds what a stretch of its file asks for, in the transaction that has locked the batch."""
    rows = {row.model: row for row in Forecast.objects.filter(batch=batch)}
    for one in found:
        if one.model not in rows and len(rows) >= MODELS:
            continue
        row = rows.setdefault(one.model, Forecast(batch=batch, model=one.model, look_at=now))
        row.requests += 1
        row.prompt_tokens += one.asks.prompt
        row.output_tokens += one.asks.output or 0
        row.unbounded += one.asks.output is None
        row.media += one.asks.media
    for row in rows.values():
        row.save()


def tend(now: datetime) -> int:
    """Says what there is to be said; how much that was."""
    due = Forecast.objects.filter(
        look_at__lte=now, batch__status=Status.IN_PROGRESS, batch__ends_as=""
    )
    related = "batch__key__project__organization", "batch__project__organization__account"
    return sum(_attempt(row, now) for row in due.select_related(*related).order_by("id")[:MOST])


def close(batch: Batch, now: datetime) -> None:
    """What it took, once no more of it runs, in the transaction that has locked the batch."""
    for row in Forecast.objects.filter(batch=batch, actual__isnull=True):
        ran = _ran(row)
        end = max((each.ended for each in ran), default=0.0)
        done = spans.work(ran, end)
        seconds, tokens = Estimate.exact(done.seconds), (done.prompt, done.output)
        row.look_at = None
        row.actual = facts.actual(done, _cost(row, seconds, tokens, now))
        row.save(update_fields=["actual", "look_at"])


def shown(batches: Sequence[Batch]) -> dict[str, dict[str, Any] | None]:
    """By batch what is said of it; None while its file is read, and where it failed."""
    totals = {batch.id: batch.total for batch in batches if batch.in_progress_at is not None}
    parts: dict[str, list[dict[str, Any]]] = {id: [] for id in totals}
    for row in Forecast.objects.filter(batch__in=totals).order_by("model"):
        said = {"predicted": row.predicted, "canary": row.canary, "actual": row.actual}
        parts[row.batch_id].append({"model": row.model, "requests": row.requests, **said})
    found = {id: facts.whole(parts[id], totals[id]) for id in totals}
    return {batch.id: found.get(batch.id) for batch in batches}


def _attempt(row: Forecast, now: datetime) -> bool:
    """One that fails must not stop the others', nor come back for ever."""
    try:
        return _predict(row, now) if row.predicted is None else _correct(row, now)
    except Exception:
        log.exception("batch %s: nothing can be said of %s", row.batch_id, row.id)
        said = {"predicted": facts.missing("it failed")} if row.predicted is None else {}
        return _keep(row, look_at=None, **said)


def _keep(row: Forecast, **said: object) -> bool:
    """Unless somebody else did meanwhile."""
    mine = Forecast.objects.filter(id=row.id, look_at=row.look_at)
    return bool(mine.update(**said))


# --- before it runs ---------------------------------------------------------------------------
def _predict(row: Forecast, now: datetime) -> bool:
    try:
        job = _asked(row)
        runtime = _runtime(row, job, now)
    except Unforeseen as why:
        said = facts.missing(str(why))
    else:
        tokens = job.requests * job.shape.prompt, job.requests * job.shape.output
        cost = _cost(row, runtime.seconds, tokens, now)
        said = facts.predicted(runtime, tokens, _devices(row, now), cost)
    after = timedelta(seconds=settings.BATCH_CANARY_S)
    return _keep(row, predicted=said, look_at=now + after)


def _asked(row: Forecast) -> Job:
    """All of its requests, with answers as long as they may get. Raises Unforeseen."""
    if row.media:
        raise Unforeseen(f"{row.media} of its requests have pictures or sound in them")
    bounded = row.requests - row.unbounded
    if not bounded:
        raise Unforeseen("its requests have no max_tokens, so nobody knows how long answers get")
    shape = Shape(max(1.0, row.prompt_tokens / row.requests), max(1.0, row.output_tokens / bounded))
    return Job(row.requests, shape)


def _runtime(row: Forecast, job: Job, now: datetime) -> Runtime:
    """Raises Unforeseen."""
    endpoint = _endpoint(row)
    replicas = engine_speed.standing(endpoint, now).replicas
    at_once = max(1, settings.BATCH_CONCURRENCY // replicas)
    paced = engine_speed.engine(endpoint, job.shape, at_once, SPARE, now)
    return forecasts.of_job(paced.engine, job, replicas)


def _endpoint(row: Forecast) -> Endpoint:
    """Raises Unforeseen."""
    id = Catalog(row.batch.key).endpoint(row.model)
    rows = Endpoint.objects.select_related("pool", "project__organization__account")
    found = rows.filter(id=id).first() if id is not None else None
    if found is None:
        raise Unforeseen("its endpoint is gone")
    return found


# --- while it runs ----------------------------------------------------------------------------
def _correct(row: Forecast, now: datetime) -> bool:
    ran = _ran(row)
    wanted = settings.BATCH_CANARY_S
    until = spans.reached(ran, wanted)
    if until is None:
        left = max(wanted - spans.seconds(ran), wanted / LOOKS)
        return _keep(row, look_at=now + timedelta(seconds=left))
    ended = datetime.fromtimestamp(until, tz=now.tzinfo)
    running = Line.objects.filter(batch_id=row.batch_id, model=row.model, state=LineState.RUNNING)
    if running.filter(began_at__lt=ended).exists():  # they have done part of it, too
        return _keep(row, look_at=now + timedelta(seconds=wanted / LOOKS))
    done = spans.work(ran, until)
    try:
        seconds, corrected = _corrected(row, done, now)
    except Unforeseen:
        seconds = forecasts.by_canary_alone(done.seconds, done.shares, row.requests)
        corrected = None
    tokens = row.requests * done.mean_prompt, row.requests * done.mean_output
    cost = _cost(row, seconds, tokens, now)
    said = facts.canary(done, seconds, corrected, _devices(row, now), cost)
    new = _keep(row, canary=said, look_at=None)
    if new and corrected is not None:
        first = datetime.fromtimestamp(min(each.began for each in ran), tz=now.tzinfo)
        _teach(row, done, first, ended, now)
    return new


def _corrected(row: Forecast, done: Work, now: datetime) -> tuple[Estimate, Corrected]:
    """What was predicted for requests as they turned out to be, by how fast they went.

    Raises Unforeseen.
    """
    if row.predicted is None or "missing" in row.predicted:
        raise Unforeseen("nothing was predicted")
    if not done.counted or not done.prompt + done.output:
        raise Unforeseen("its answers do not say how many tokens they have")
    job = _seen(row, done)
    runtime = _runtime(row, job, now)
    measured = Canary(
        done.seconds, done.prompt + done.output, _early(runtime, job, done), done.requests
    )
    return forecasts.after_canary(runtime, job.tokens, measured)


def _seen(row: Forecast, done: Work) -> Job:
    """All of its requests, as those turned out to be."""
    spread = min(done.spread, 5.0) if done.requests > 1 else SPREAD
    shape = Shape(max(1.0, done.mean_prompt), max(1.0, done.mean_output), 0.0, spread)
    return Job(row.requests, shape)


def _early(runtime: Runtime, job: Job, done: Work) -> float:
    """Tokens that were predicted for the seconds of a canary."""
    whole = runtime.seconds.p50
    if done.seconds == forecasts.CANARY_S and whole >= done.seconds:
        return runtime.canary_tokens
    return job.tokens * done.seconds / whole


def _teach(row: Forecast, done: Work, begun: datetime, ended: datetime, now: datetime) -> bool:
    """Later predictions, by what this one's first minute showed: with as many requests at once as
    there were, where nobody else used the engine, and enough of them were counted."""
    if ":" in row.model or not done.counted or done.requests < LEAST_REQUESTS:
        return False
    try:
        endpoint = _endpoint(row)
        replicas = engine_speed.standing(endpoint, now).replicas
        if replicas > 1 or not engine_speed.alone(endpoint, begun, ended):
            return False
        job = _seen(row, done)
        paced = engine_speed.engine(endpoint, job.shape, max(1, round(done.at_once)), 1.0, now)
    except Unforeseen:
        return False
    runtime = forecasts.of_job(paced.engine, job, replicas)
    return engine_speed.learn(
        endpoint,
        paced,
        about=f"batch {row.batch_id} {row.id}",
        predicted=_early(runtime, job, done),
        measured=done.prompt + done.output,
        now=now,
    )


# --- what it costs ----------------------------------------------------------------------------
def _cost(row: Forecast, seconds: Estimate, tokens: Sequence[float], now: datetime) -> Cost | None:
    """As it is paid for: by the seconds of an organization's own devices, by the tokens of what
    another one shares. None where there is no price."""
    try:
        endpoint = _endpoint(row)
    except Unforeseen:
        return None
    if endpoint.project.organization_id != row.batch.project.organization_id:
        return _of_tokens(tokens, row.batch.project.organization.account, now)
    price = engine_speed.standing(endpoint, now).price
    if price is None:
        return None
    devices = _devices(row, now) * Fraction(endpoint.device_share, WHOLE)
    p50, p95 = (costs.of_seconds(price, devices, each) for each in (seconds.p50, seconds.p95))
    return Cost(price.currency, "device_seconds", p50, p95)


def _of_tokens(tokens: Sequence[float], account: Account, now: datetime) -> Cost | None:
    prompt, output = (
        prices.in_force(meter, at=now, currency=account.currency, account_id=account.id)
        for meter in (Meter.INPUT_TOKENS, Meter.OUTPUT_TOKENS)
    )
    if prompt is None or output is None:
        return None
    amount = costs.of_tokens(prompt, output, (tokens[0], tokens[1]))
    return Cost(prompt.currency, "tokens", amount, amount)


def _devices(row: Forecast, now: datetime) -> int:
    """Of all replicas: those that did its work, as they were last seen, else those that would."""
    seen = (row.canary or {}).get("devices")
    return int(seen) if seen else engine_speed.standing(_endpoint(row), now).devices


def _ran(row: Forecast) -> list[Ran]:
    """Those that have a result."""
    rows = Line.objects.filter(
        batch_id=row.batch_id,
        model=row.model,
        state__in=(LineState.DONE, LineState.FAILED),
        began_at__isnull=False,
        ended_at__isnull=False,
    )
    columns = "began_at", "ended_at", "prompt_tokens", "output_tokens", "state"
    return [
        Ran(begun.timestamp(), ended.timestamp(), prompt, output, state == LineState.DONE)
        for begun, ended, prompt, output, state in rows.values_list(*columns)
    ]
