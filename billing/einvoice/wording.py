"""Numbers, dates and units as they stand on the page: the same for every reader in Europe."""

from datetime import date
from decimal import Decimal

from billing.einvoice.document import SECONDS, Line, Period

NBSP = "\u00a0"
UNITS = {SECONDS: "s", "C62": "", "E34": "GB", "HUR": "h"}
# Whose customers come most; any other country stands by its code.
COUNTRIES = {
    "AT": "Austria",
    "BE": "Belgium",
    "BG": "Bulgaria",
    "CH": "Switzerland",
    "CY": "Cyprus",
    "CZ": "Czechia",
    "DE": "Germany",
    "DK": "Denmark",
    "EE": "Estonia",
    "ES": "Spain",
    "FI": "Finland",
    "FR": "France",
    "GB": "United Kingdom",
    "GR": "Greece",
    "HR": "Croatia",
    "HU": "Hungary",
    "IE": "Ireland",
    "IS": "Iceland",
    "IT": "Italy",
    "LI": "Liechtenstein",
    "LT": "Lithuania",
    "LU": "Luxembourg",
    "LV": "Latvia",
    "MT": "Malta",
    "NL": "Netherlands",
    "NO": "Norway",
    "PL": "Poland",
    "PT": "Portugal",
    "RO": "Romania",
    "SE": "Sweden",
    "SI": "Slovenia",
    "SK": "Slovakia",
    "US": "United States",
}
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


def number(value: Decimal | int) -> str:
    """Thousands apart by a space, decimals after a point, a true minus: \u221214 342.40."""
    digits = f"{value:,f}" if isinstance(value, Decimal) else f"{value:,}"
    return digits.replace(",", NBSP).replace("-", "\u2212")


def money(value: Decimal, currency: str) -> str:
    return f"{number(value)}{NBSP}{currency}"


def rate(value: Decimal) -> str:
    """19 %, 5.5 %."""
    digits = format(value, "f")
    if "." in digits:
        digits = digits.rstrip("0").rstrip(".")
    return f"{digits}{NBSP}%"


def day(value: date | None) -> str:
    return f"{value.day} {MONTHS[value.month - 1]} {value.year}" if value else ""


def period(value: Period) -> str:
    """1 to 30 November 2026: nothing said twice."""
    start, end = value.start, value.end
    if start == end:
        return day(end)
    first = day(start).split()
    same = (2 if start.month == end.month else 1) if start.year == end.year else 0
    return f"{' '.join(first[: 3 - same])} to {day(end)}"


def country(code: str) -> str:
    return COUNTRIES.get(code, code)


def quantity(line: Line) -> str:
    return _counted(line.quantity, line.unit)


def base(line: Line) -> str:
    """What the price buys: per 3 600 s (1 h)."""
    hour = " (1 h)" if (line.unit, line.base_quantity) == (SECONDS, 3600) else ""
    return f"per {_counted(line.base_quantity, line.unit)}{hour}"


def clock(line: Line) -> str:
    """Seconds as hours, for whoever checks with the price per hour: 34 h 17 min 37 s."""
    if line.unit != SECONDS or not line.quantity:
        return ""
    minutes, seconds = divmod(abs(line.quantity), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (seconds, "s")]
    said = " ".join(f"{number(count)}{NBSP}{unit}" for count, unit in parts if count)
    return f"\u2212{said}" if line.quantity < 0 else said


def iban(value: str) -> str:
    return NBSP.join(value[start : start + 4] for start in range(0, len(value), 4))


def _counted(count: int, unit: str) -> str:
    name = UNITS.get(unit, unit)
    return f"{number(count)}{NBSP}{name}" if name else number(count)
