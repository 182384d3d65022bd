"""Where personal data lies at rest: each room names its places as it loads.

A place says what is kept there, for how long, and how it is erased, so that a record of processing
and an erasure can go through all of them without knowing the rooms.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

Erase = Callable[[str, datetime], int]  # a project's id, and when it is; how many things went


@dataclass(frozen=True)
class Place:
    name: str
    tables: tuple[str, ...]
    holds: str  # in a person's words
    kept: str  # for how long
    protected: str  # how it is kept from being read
    erase: Erase


_places: dict[str, Place] = {}


def register(place: Place) -> None:
    _places[place.name] = place


def places() -> tuple[Place, ...]:
    return tuple(_places[name] for name in sorted(_places))
