"""What becomes of each endpoint on a blocked engine version, and by when, in words for people.

Only what is due to be rolled is rolled; what is not says so. Nothing is stopped at the deadline.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from controlplane.endpoints import engine_blocking, engine_versions
from controlplane.endpoints.engine_blocking import OnIt
from controlplane.endpoints.engine_models import EngineVersion
from controlplane.endpoints.engine_versions import Status
from controlplane.endpoints.models import Endpoint, Replica
from controlplane.endpoints.states import LIVE


class Course(StrEnum):
    NONE = ""  # the version is not blocked
    ROLLS = "rolls"
    ROLLS_AGAIN = "rolls_again"  # its rollout went back; it is rolled once more at the deadline
    STAYS = "stays"  # that went back too
    LEAVING = "leaving"  # it wishes for another; replicas of before still run
    OWN_IMAGE = "own_image"  # its owner's to change


@dataclass(frozen=True)
class Outlook:
    """`at`: when that begins, where something does."""

    on: OnIt
    course: Course = Course.NONE
    at: datetime | None = None
    text: str = ""


def listed(row: EngineVersion, now: datetime) -> list[Outlook]:
    """The endpoints on a version, with what becomes of each."""
    return [_outlook(row, one, now) for one in engine_blocking.on_it(row)]


def warnings(endpoint: Endpoint, unsupported: list[EngineVersion]) -> list[str]:
    """Of its engine's version; of an image of its own, as its replicas say."""
    if endpoint.image is not None:
        return image_warnings(endpoint, unsupported)
    return engine_versions.warnings(endpoint.engine, endpoint.engine_version, unsupported)


def image_warnings(endpoint: Endpoint, unsupported: list[EngineVersion]) -> list[str]:
    """Of an endpoint with an image of its own, by what its replicas say that they run."""
    mine = [row for row in unsupported if row.engine == endpoint.engine]
    if not mine:
        return []
    live = Replica.objects.filter(endpoint=endpoint, state__in=LIVE)
    found = [row for row in mine if live.filter(engine_blocking.says(row.version)).exists()]
    return [f"{row} is {row.status}{_why(row)}. {_own_image(row)}" for row in found]


def _outlook(row: EngineVersion, one: OnIt, now: datetime) -> Outlook:
    if row.status != Status.BLOCKED or row.deadline is None:
        return Outlook(one)
    if not one.wishes and one.endpoint.image is not None:
        return Outlook(one, Course.OWN_IMAGE, None, _own_image(row))
    if not one.wishes:
        text = f"Wishes for {one.endpoint.engine_version or 'another'}: replicas of before end."
        return Outlook(one, Course.LEAVING, None, text)
    begins, to = engine_blocking.rolls_at(row), row.replacement
    if now < begins or not engine_blocking.tried(row, one.endpoint, now):
        text = f"Rolled to {to} from {_time(begins)} UTC, by {_time(row.deadline)} UTC."
        return Outlook(one, Course.ROLLS, begins, text)
    if now < row.deadline:
        text = f"Its rollout went back; rolled to {to} once more at {_time(row.deadline)} UTC."
        return Outlook(one, Course.ROLLS_AGAIN, row.deadline, text)
    text = (
        f"Its rollout to {to} went back again: it serves on as it is, and is not rolled by itself."
    )
    return Outlook(one, Course.STAYS, None, f"{text} See why, then roll it by hand.")


def _own_image(row: EngineVersion) -> str:
    """What its owner has to do, and what happens if not."""
    by = f" by {_time(row.deadline)} UTC" if row.deadline else ""
    return (
        f"It comes with its own image, which nobody but its owner changes: choose one with "
        f"another version{by}. It is not rolled, and serves on after that too."
    )


def _why(row: EngineVersion) -> str:
    return f": {row.note}" if row.note else ""


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}"
