"""What Stripe lacks here, each lack with its cure: a part of `stoa doctor`."""

from datetime import datetime

from billing.models import Entity
from billing.payments.stripe import checking, configuration, outbox
from billing.payments.stripe.models import StripeCheck
from workers.agent.checks.finding import Finding

CHECK = "stripe"


def findings(now: datetime) -> list[Finding]:
    """Nothing where it is off. Asks nothing of Stripe."""
    found = configuration.current()
    if found is None:
        return []
    if not configuration.installed():
        cure = "pip install 'stripe>=16.1,<17', or unset STOA_STRIPE_API_KEY"
        return [Finding(CHECK, False, "its Python package is not installed", cure)]
    cure = "set STOA_STRIPE_WEBHOOK_SECRETS to the secret of the endpoint (docs/stripe.md)"
    lacks = [Finding(CHECK, bool(found.secrets), "webhooks can be verified", cure)]
    wanted = {"pk": found.entity} if found.entity else {}
    entities = list(Entity.objects.filter(**wanted)[:2])
    cure = "set STOA_STRIPE_ENTITY to the entity whose account at Stripe it is"
    lacks.append(Finding(CHECK, len(entities) == 1, "it is of one legal entity", cure))
    lacks += [_issuer(entity) for entity in entities[:1]]
    return [*lacks, _calls(now), _books(now)]


def _issuer(entity: Entity) -> Finding:
    """One supply, one invoice: two would owe its VAT twice."""
    ok = entity.invoice_issuer == "platform"
    cure = "this platform issues the invoices and Stripe collects: set invoice_issuer to platform"
    return Finding(CHECK, ok, f"{entity.name}'s invoices are issued here alone", cure)


def _calls(now: datetime) -> Finding:
    late = outbox.overdue(now)
    cure = "look at https://status.stripe.com, the key and the worker's log; nothing is lost"
    return Finding(CHECK, late == 0, f"{late} calls wait for hours", cure)


def _books(now: datetime) -> Finding:
    last = StripeCheck.objects.exclude(finished_at=None).order_by("-until").first()
    if last is None:
        ok = not checking.due(now)
        return Finding(CHECK, ok, "its books were not compared yet", "let the worker run")
    text = "; ".join(last.differences[:3]) or f"its books agreed at {last.until:%Y-%m-%d %H:%M}"
    late = last.until < now - 2 * checking.EVERY
    cure = "see docs/stripe.md; `stoa stripe check` compares again"
    return Finding(CHECK, not last.differences and not late, text, cure)
