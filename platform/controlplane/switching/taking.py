"""The verb: an organization as another installation had it, in one transaction, once a bundle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.db import DataError, IntegrityError, transaction

from compliance import audit, locks
from controlplane.fleet.models import Region
from controlplane.switching import catalogue, endpoint_importers, importers
from controlplane.switching.bundle import Bundle, Readable, keep
from controlplane.switching.importers import Taking
from controlplane.switching.models import SwitchingImport
from controlplane.tenancy.errors import Invalid


@dataclass(frozen=True)
class Choice:
    """What the new operator decides. `name`: of the organization, empty: as it was called;
    `pools`: which of theirs stands for one of the bundle, by id or name."""

    region: str
    name: str = ""
    pools: Mapping[str, str] = field(default_factory=dict)


# What a row gives that its schema allows and no installation of ours would have written.
_MALFORMED = (DataError, IntegrityError, AttributeError, LookupError, TypeError, ValueError)


def come_in(
    source: Readable,
    vkeys: Sequence[str],
    *,
    actor: audit.Actor,
    choice: Choice,
    now: datetime,
) -> SwitchingImport:
    """Keep, verify and take over a bundle; one that is refused is not kept. Raises Invalid."""
    bundle = keep(source, vkeys)
    try:
        return take_over(actor=actor, bundle=bundle, choice=choice, now=now)
    except _MALFORMED as error:
        words = f"a row is not of the form that it has to have: {type(error).__name__}"
        raise Invalid(words, code="unreadable", field="bundle") from error
    finally:
        if not SwitchingImport.objects.filter(bundle_sha256=bundle.sha256).exists():
            bundle.path.unlink(missing_ok=True)


def take_over(
    *, actor: audit.Actor, bundle: Bundle, choice: Choice, now: datetime
) -> SwitchingImport:
    """Make what the bundle has, by the verbs that people would use; endpoints stay stopped.

    The same bundle again changes nothing and returns what it came to. What one row is refused for
    becomes a note. Raises Invalid for a region or a pool that is not there.
    """
    if not Region.objects.filter(code=choice.region).exists():
        message = f"there is no region {choice.region!r:.40}: make it first"
        raise Invalid(message, code="unknown_region", field="region")
    with transaction.atomic():
        locks.hold(f"switching:{bundle.origin}:{bundle.id}")
        known = SwitchingImport.objects.filter(origin=bundle.origin, bundle_id=bundle.id).first()
        if known is not None:
            return known
        taking = Taking(bundle, actor, now, choice.region, choice.name, choice.pools)
        for take in _IN_ORDER:
            take(taking)
        for words in bundle.lacks:
            taking.note("audit_log", "incomplete", words)
        _tell_left(taking)
        done = SwitchingImport.objects.create(
            origin=bundle.origin,
            bundle_id=bundle.id,
            bundle_sha256=bundle.sha256,
            size_bytes=bundle.size,
            organization=taking.organization,
            ids=taking.ids,
            counts=taking.counts,
            notes=[note.said() for note in taking.notes],
            created_at=now,
            created_by=actor.id,
        )
        audit.record(
            actor=actor,
            action="switching.import",
            target=audit.Target("switching_import", done.id),
            log=taking.organization.id,
            region=choice.region,
            now=now,
            change=[
                audit.Change("bundle_id", None, bundle.id),
                audit.Change("bundle_sha256", None, bundle.sha256),
                audit.Change("origin", None, bundle.origin),
                audit.Change("organization", bundle.organization_id, taking.organization.id),
                audit.Change("counts", None, taking.counts),
                audit.Change("notes", None, len(done.notes)),
            ],
        )
    return done


def _tell_left(taking: Taking) -> None:
    for name, words in catalogue.LEFT.items():
        count = sum(1 for _ in taking.bundle.rows(name))
        if count:
            taking.note(name, "left", f"{count} of {name.replace('_', ' ')}: {words}")


# What is named comes before what names it.
_IN_ORDER = (
    importers.organization,
    importers.billing_profile,
    importers.members,
    importers.projects,
    importers.api_keys,
    importers.model_uploads,
    endpoint_importers.pools,
    endpoint_importers.endpoints,
    endpoint_importers.versions,
    importers.model_aliases,
    importers.spending,
)
