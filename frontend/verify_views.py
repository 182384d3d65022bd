"""The published verifier of bundles, its sum and the log's public key: for everybody."""

from django.http import FileResponse, HttpResponse
from django.http.response import HttpResponseBase
from django.views.decorators.http import require_safe

from compliance.bundles import readme
from compliance.log import signing


@require_safe
def program(request: object) -> HttpResponseBase:
    return FileResponse(readme.VERIFIER.open("rb"), content_type="text/x-python; charset=utf-8")


@require_safe
def digest(request: object) -> HttpResponse:
    """As `sha256sum --check` reads it."""
    return _text(f"{readme.verifier_sha256()}  {readme.VERIFIER.name}\n")


@require_safe
def key(request: object) -> HttpResponse:
    try:
        return _text(f"{signing.vkey()}\n")
    except signing.SignerAway:
        return _text("the signer does not answer: try again later\n", 503)


def _text(words: str, status: int = 200) -> HttpResponse:
    return HttpResponse(words, status=status, content_type="text/plain; charset=utf-8")
