"""Quotes as they are kept: asked for, found again, and gone after their time."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction

from compliance import audit, ids
from controlplane import pace
from controlplane.endpoints import questions, quoting, sources
from controlplane.endpoints.models import Quote
from controlplane.tenancy import errors, events
from controlplane.tenancy.models import Project

# Each takes up to two seconds of a processor.
MOST, WITHIN = 30, timedelta(minutes=1)


def create(
    *, actor: audit.Actor, project: Project, body: Mapping[str, Any], now: datetime
) -> Quote:
    """Ask, and keep what was answered. `body` as `quoting.read` has it.

    Raises Invalid, Unquotable with the fact that is missing, and TooMany.
    """
    asked = quoting.read(body)
    if project.quotes.filter(created_at__gt=now - WITHIN).count() >= MOST:
        raise errors.TooMany(f"a project asks for at most {MOST} quotes a minute")
    try:
        with pace.QUOTES.paid(actor.id):  # those too that come to nothing, and are not kept
            answer = quoting.facts(quoting.answer(project, asked, now=now), asked)
    except pace.TooFast as error:
        raise errors.TooMany(str(error)) from None
    wish = asked.wish
    kept = {name: value for name, value in body.items() if name not in ("source", "config")}
    public = wish is not None and sources.is_public_name(wish.source)
    named = {"model": wish.model} if wish else {}
    with transaction.atomic():
        quote = Quote.objects.create(
            project=project,
            source=wish.source if wish else "",
            model=wish.model if wish else "",
            revision=wish.revision if wish else "",
            engine_version=questions.version(asked.engine_version),
            body=kept,
            answer=answer,
            created_at=now,
        )
        events.record(
            project,
            audit.Target("quote", quote.id),
            "quote.create",
            actor=actor,
            now=now,
            change=[audit.Change(name, None, value) for name, value in named.items() if public],
            personal={} if public else named,
        )
    return quote


def find(project: Project, id: str) -> Quote | None:
    """None for no id. Raises NotFound for one that is not the project's."""
    if not id:
        return None
    found = project.quotes.filter(id=id).first() if ids.valid(id, "quo") else None
    if found is None:
        raise errors.NotFound("quote", field="quote_id")
    return found
