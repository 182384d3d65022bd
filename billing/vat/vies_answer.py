"""What VIES said to one question, kept whole: the proof behind a reverse charge."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class ViesOutcome(StrEnum):
    """`UNAVAILABLE`: ask again later. `REJECTED`: our question was refused, asking again is vain.

    Neither says anything about the number.
    """

    VALID = "valid"
    INVALID = "invalid"
    UNAVAILABLE = "unavailable"
    REJECTED = "rejected"


@dataclass(frozen=True)
class ViesAnswer:
    """`number` and `requester` with their prefixes; `checked_at` is our clock (aware).

    `consultation_number` is VIES's requestIdentifier, which it gives to a requester for a valid
    number: with it a tax office finds the check again. `matches` holds VALID, INVALID,
    NOT_PROCESSED or NOT_SUPPORTED for each compared field. `raw` is the body as it came.
    """

    outcome: ViesOutcome
    number: str
    requester: str
    checked_at: datetime
    request_date: str = ""
    consultation_number: str = ""
    name: str = ""
    address: str = ""
    matches: dict[str, str] = field(default_factory=dict)
    error: str = ""
    raw: str = ""
