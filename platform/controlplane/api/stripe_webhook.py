"""Where Stripe's webhooks arrive: verified, kept, answered. All else is the worker's.

No login and no CSRF token: the signature over the raw body is what admits.
"""

import logging

from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from billing.payments.stripe import configuration, webhooks
from controlplane.api import problems

log = logging.getLogger(__name__)


@csrf_exempt
@require_POST
def receive(request: HttpRequest) -> HttpResponse:
    """200 for what is genuine, new or known; 400 for what is not; 404 where Stripe is off.

    While the database is away the answer is an error, and Stripe sends it again.
    """
    found = configuration.current()
    if found is None:
        return problems.response(404, "not_found", "There is nothing here.")
    if int(request.headers.get("content-length") or 0) > webhooks.BODY_MAX:
        return problems.response(413, "too_large", f"At most {webhooks.BODY_MAX} bytes.")
    signature = request.headers.get("stripe-signature", "")
    try:
        webhooks.receive(request.body, signature, configuration=found, now=timezone.now())
    except webhooks.NotGenuine as refusal:
        log.warning("a webhook was refused: %s", refusal)
        return problems.response(400, refusal.code, str(refusal))
    except ValueError as error:
        return problems.response(400, "invalid", f"This is no event: {error}")
    return HttpResponse(status=200)
