"""What a rule of retention is: pure. The schedule is data (`schedule`), its versions rows."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from dateutil.relativedelta import relativedelta

UNITS = ("seconds", "hours", "days", "months", "years")

DELETE = "delete"  # rows or files go
REDACT = "redact"  # personal values go, the fact stays
KEEP = "keep"  # nothing goes by itself: `ground` says why
NONE_KEPT = "none_kept"  # is never at rest
ACTIONS = frozenset({DELETE, REDACT, KEEP, NONE_KEPT})


@dataclass(frozen=True, order=False)
class Period:
    """`calendar_year`: it begins to run at the end of the calendar year of its start."""

    amount: int
    unit: str
    calendar_year: bool = False

    def before(self, now: datetime) -> datetime:
        """What began earlier than this is over at `now`."""
        now = now.astimezone(UTC)
        if self.calendar_year:
            years = self.amount if self.unit == "years" else -(-self.amount // 12)
            return datetime(now.year - years, 1, 1, tzinfo=UTC)
        return now - relativedelta(**{self.unit: self.amount})  # type: ignore[arg-type]

    def after(self, start: datetime) -> datetime:
        """When something that began then is over."""
        start = start.astimezone(UTC)
        if self.calendar_year:
            years = self.amount if self.unit == "years" else -(-self.amount // 12)
            return datetime(start.year + years + 1, 1, 1, tzinfo=UTC)
        return start + relativedelta(**{self.unit: self.amount})  # type: ignore[arg-type]

    def length(self) -> timedelta:
        """For comparing periods: a month has 30.4 days here, and a year 365."""
        days = {
            "seconds": 1 / 86_400,
            "hours": 1 / 24,
            "days": 1.0,
            "months": 365 / 12,
            "years": 365.0,
        }[self.unit]
        return timedelta(days=days * self.amount)

    def __str__(self) -> str:
        unit = self.unit.removesuffix("s") if self.amount == 1 else self.unit
        return f"{self.amount} {unit}" + (" from the year's end" if self.calendar_year else "")


@dataclass(frozen=True)
class Rule:
    """How long a category is kept. `period` None: as `starts` and `ground` say.

    `floor` and `ceiling` bound what an operator may set; without both nobody sets it. `setting`
    names the variable that sets it instead. `basis`: why it may be kept so long; `source`: where
    that is written.
    """

    code: str
    category: str
    basis: str
    period: Period | None
    starts: str
    action: str
    source: str
    jurisdiction: str = "EU"
    floor: Period | None = None
    ceiling: Period | None = None
    setting: str = ""
    ground: str = ""
