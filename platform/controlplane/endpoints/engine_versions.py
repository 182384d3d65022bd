"""Engine versions: which there are, and which an endpoint may choose. Blocking: engine_blocking.

An endpoint that names no version runs what its nodes have; the one that our release ships counts
as supported until the operator says otherwise.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from django.db import IntegrityError, transaction

from compliance import audit
from controlplane.endpoints import images
from controlplane.endpoints.engine_models import EngineVersion
from controlplane.endpoints.errors import Invalid
from controlplane.endpoints.models import EndpointVersion
from controlplane.fleet import engines, wire
from controlplane.tenancy.errors import Conflict

NOTE_MAX = 200
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+_-]{0,63}")


class Status(StrEnum):
    SUPPORTED = "supported"
    DEPRECATED = "deprecated"  # may be chosen, with a warning
    BLOCKED = "blocked"  # may not, and what runs on it is rolled by its deadline


def shipped(engine: str) -> set[str]:
    """The versions whose environments nodes of this release install."""
    return {recipe.version for recipe in engines.of(engine).environments.values()}


def ship(now: datetime) -> int:
    """Write down the versions that this release ships; how many were new."""
    there = set(EngineVersion.objects.values_list("engine", "version"))
    wanted = {(name, version) for name in engines.ENGINES for version in shipped(name)}
    for engine, version in sorted(wanted - there):
        add(actor=audit.SYSTEM, engine=engine, version=version, now=now)
    return len(wanted - there)


def add(
    *,
    actor: audit.Actor,
    engine: str,
    version: str,
    now: datetime,
    image: str = "",
    note: str = "",
) -> EngineVersion:
    """A version that endpoints may choose. Without an image nodes must ship it.

    Raises Invalid; Conflict where it is there already.
    """
    if engine not in engines.ENGINES or engine == images.CUSTOM:
        raise Invalid(f"{engine[:32]!r} is no engine with versions", field="engine")
    if not _VERSION.fullmatch(version):
        raise Invalid("expected a version such as 0.32.0", field="version")
    if image:
        images.reference(image)
    elif version not in shipped(engine):
        message = f"nodes do not bring {engine} {version} themselves: name an image that has it"
        raise Invalid(message, code="image_needed", field="image")
    with transaction.atomic():
        try:
            with transaction.atomic():
                row = EngineVersion.objects.create(
                    engine=engine,
                    version=version,
                    image=image,
                    note=checked_note(note),
                    created_at=now,
                    changed_at=now,
                )
        except IntegrityError:
            message = f"{engine} {version} is there already"
            raise Conflict(message, code="version_exists", field="version") from None
        tell(row, "engine_version.add", actor, now)
    return row


def deprecate(
    *, actor: audit.Actor, version: EngineVersion, now: datetime, note: str = ""
) -> EngineVersion:
    """It can still be chosen, with a warning. One that is blocked stays so. Raises Invalid."""
    with transaction.atomic():
        row = locked(version)
        if row.status == Status.BLOCKED:
            raise Invalid("it is blocked: support it again first", code="blocked", field="status")
        if row.status != Status.DEPRECATED:
            put(row, Status.DEPRECATED, note, now)
            tell(row, "engine_version.deprecate", actor, now)
    return row


def choose(engine: engines.Engine, wanted: str, *, own_image: bool) -> str:
    """The version that an endpoint gets; empty: as its nodes have it. Raises Invalid."""
    if own_image:
        if wanted:
            message = "an image of your own brings its engine: leave `engine_version` out"
            raise Invalid(message, field="engine_version")
        return ""
    rows = {row.version: row for row in EngineVersion.objects.filter(engine=engine.name)}
    if wanted:
        refuse(engine.name, wanted, rows.get(wanted))
        return wanted
    process = engines.Way.PROCESS in engine.ways
    bad = [one for one in shipped(engine.name) if one in rows and _blocked(rows[one])]
    if process and not bad:
        return ""
    if (found := newest(rows)) is not None:
        return found.version
    if bad:
        message = f"{engine.name} {bad[0]} is blocked, and there is no other version of it yet"
        raise Invalid(message, code="engine_version_blocked", field="engine_version")
    return ""


def refuse(engine: str, version: str, row: EngineVersion | None = None) -> None:
    """Raises Invalid where an endpoint may not choose it; empty is no choice."""
    row = row or EngineVersion.objects.filter(engine=engine, version=version).first()
    if not version or (row is None and version in shipped(engine)):
        return
    if row is None:
        message = f"there is no version {version[:64]!r} of {engine} here"
        raise Invalid(message, code="engine_version_unknown", field="engine_version")
    if _blocked(row):
        becomes = f"; {row.replacement} takes its place" if row.replacement else ""
        message = f"{row} is blocked{becomes}" + (f" ({row.note})" if row.note else "")
        raise Invalid(message, code="engine_version_blocked", field="engine_version")


def warnings(engine: str, version: str, rows: list[EngineVersion] | None = None) -> list[str]:
    """What an endpoint's owner should know of the version that it names, or gets."""
    mine = {version} if version else shipped(engine) if engine in engines.ENGINES else set()
    if rows is None:
        rows = unsupported()
    found = [row for row in rows if row.engine == engine and row.version in mine]
    return [_warning(row) for row in found]


def unsupported() -> list[EngineVersion]:
    return list(EngineVersion.objects.exclude(status=Status.SUPPORTED))


def image_of(engine: str, version: str) -> str:
    """The image that a version is started from; empty: the environment that nodes install."""
    if not version:
        return ""
    rows = EngineVersion.objects.filter(engine=engine, version=version)
    return rows.values_list("image", flat=True).first() or ""


def from_image(version: EndpointVersion) -> bool:
    """Whether its replicas are started from an image: its own, or its engine version's."""
    return version.image is not None or bool(image_of(version.engine, version.engine_version))


def wired(version: EndpointVersion, pins: Mapping[str, str]) -> wire.Image | None:
    """The image that a node is told, if any."""
    if version.image is None and (found := image_of(version.engine, version.engine_version)):
        return wire.Image(reference=found)
    return images.wired(version.image, pins)


def newest(rows: dict[str, EngineVersion]) -> EngineVersion | None:
    """The supported one with the highest number."""
    good = [row for row in rows.values() if row.status == Status.SUPPORTED]
    return max(good, key=lambda row: _order(row.version), default=None)


def locked(version: EngineVersion) -> EngineVersion:
    return EngineVersion.objects.select_for_update().get(pk=version.pk)


def put(row: EngineVersion, status: Status, note: str, now: datetime) -> None:
    row.status, row.note, row.changed_at = status, checked_note(note), now
    if status is not Status.BLOCKED:
        row.replacement, row.deadline = "", None
    row.save(update_fields=["status", "note", "changed_at", "replacement", "deadline"])


def tell(row: EngineVersion, action: str, actor: audit.Actor, now: datetime) -> None:
    facts = {"engine": row.engine, "version": row.version, "replacement": row.replacement}
    if row.deadline is not None:
        facts["deadline"] = row.deadline.isoformat()
    audit.record(
        actor=actor,
        action=action,
        target=audit.Target("engine_version", row.id),
        log=audit.PLATFORM,
        now=now,
        change=[audit.Change(name, None, value) for name, value in facts.items() if value],
    )


def checked_note(note: str) -> str:
    if len(note) > NOTE_MAX or not note.isprintable():
        raise Invalid(f"expected at most {NOTE_MAX} characters in one line", field="note")
    return note


def _blocked(row: EngineVersion) -> bool:
    return row.status == Status.BLOCKED


def _warning(row: EngineVersion) -> str:
    why = f": {row.note}" if row.note else ""
    if row.deadline is None:
        return f"{row} is deprecated{why}. Choose a newer version."
    return (
        f"{row} is blocked{why}. By {row.deadline:%Y-%m-%d %H:%M} UTC every endpoint on it is "
        f"rolled to {row.replacement}."
    )


def _order(version: str) -> list[tuple[int, int, str]]:
    """Numbers by their size; a word in it (a candidate) comes before the number itself."""
    parts = re.findall(r"\d+|[A-Za-z]+", version)
    return [(1, int(one), "") if one.isdigit() else (-1, 0, one) for one in parts] + [(0, 0, "")]
