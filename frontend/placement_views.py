"""What a pool asks of placement: the operator's."""

from django import forms
from django.contrib import messages
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods

from compliance import ids
from controlplane.fleet import placement_policy
from controlplane.fleet.models import Pool
from controlplane.tenancy import access
from controlplane.tenancy.errors import NotFound
from frontend.visits import Request, Visit, page, show


class PlacementForm(forms.Form):
    keep_block = forms.TypedChoiceField(
        label="Keep free",
        coerce=int,
        choices=[
            (size, f"one whole block of {size} devices" if size else "nothing")
            for size in placement_policy.KEEP_BLOCKS
        ],
        help_text="For replicas that need all of it. Nobody is moved for it.",
    )
    share_devices = forms.BooleanField(
        label="Replicas of one organization may share a device",
        required=False,
        help_text="Where their endpoints ask for a part of one. Who shares one now stays.",
    )


@require_http_methods(["GET", "HEAD", "POST"])
@page
def policy(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    pool = _pool(visit, id)
    kept = {"keep_block": pool.keep_block, "share_devices": pool.share_devices}
    form = PlacementForm(request.POST if request.method == "POST" else None, initial=kept)
    if form.is_bound and form.is_valid():
        actor = visit.principal.actor
        placement_policy.set_placement(pool=pool, actor=actor, now=visit.now, **form.cleaned_data)
        messages.success(request, "It holds from the next replica on.")
        return redirect("frontend:pool-placement", id=pool.id)
    context = {"pool": pool, "form": form}
    status = 422 if form.is_bound else 200
    return show(request, visit, "pool_placement.html", context, status=status)


def _pool(visit: Visit, id: str) -> Pool:
    access.operator(visit.principal)
    found = Pool.objects.select_related("region").filter(pk=id)
    pool = found.first() if ids.valid(id, "pool") else None
    if pool is None:
        raise NotFound("pool")
    return pool
