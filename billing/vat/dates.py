"""Days by which the Directive wants something done."""

from datetime import date, timedelta


def next_month(day: date) -> date:
    """The first day of the month after."""
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1)


def invoice_due(chargeable_on: date) -> date:
    """The last day to issue: the 15th of the month after the chargeable event (Art. 222).

    The Directive says so for services under reverse charge. For domestic ones each state says,
    none of the issuers allowed here less, so the same day serves for all.
    """
    return next_month(chargeable_on).replace(day=15)


def month(day: date) -> str:
    return f"{day:%Y-%m}"


def quarter(day: date) -> str:
    return f"{day.year}-Q{(day.month + 2) // 3}"
