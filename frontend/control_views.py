"""The controls of Annex A: for which there is evidence, and why there is none for the others."""

from itertools import groupby
from typing import Any

from django.http.response import HttpResponseBase
from django.views.decorators.http import require_safe

from compliance import annex_pack, controls
from frontend import whose
from frontend.visits import Request, Visit, page, show
from frontend.whose import Whose

_THEMES = {"5": "Organizational", "6": "People", "7": "Physical", "8": "Technological"}


@require_safe
@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    if visit.organization is None:
        return show(request, visit, "nowhere.html")
    return _page(request, visit, whose.of(visit, visit.organization.id))


@require_safe
@page
def operators(request: Request, visit: Visit) -> HttpResponseBase:
    return _page(request, visit, whose.operators(visit))


def _page(request: Request, visit: Visit, mine: Whose) -> HttpResponseBase:
    rows = [annex_pack.entry(one, mine.owner) for one in controls.CONTROLS.values()]
    shown = sum(1 for one in rows if one["producers"])
    themes: list[tuple[str, list[dict[str, Any]]]] = [
        (_THEMES[part], list(some))
        for part, some in groupby(rows, lambda one: one["control"].split(".")[1])
    ]
    context = {"whose": mine, "themes": themes, "shown": shown, "count": len(rows)}
    return show(request, visit, "controls.html", context)
