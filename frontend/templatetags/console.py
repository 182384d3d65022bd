"""How the console writes quantities: sizes, money, times, seconds."""

from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from frontend import navigation as pages
from frontend.visits import Visit

register = template.Library()

_SIGNS = {"EUR": "€"}
_MINUS = "\N{MINUS SIGN}"
_METERS = {
    "device_seconds": "device time",
    "warm_seconds": "device time, kept warm",
    "asleep_seconds": "device time, asleep",
    "input_tokens": "input tokens",
    "cached_tokens": "cached input tokens",
    "output_tokens": "output tokens",
}
# Status or state -> how it looks (stoa.css); the word itself is always there too.
_TONES = {
    "ready": "good",
    "complete": "good",
    "loaded": "good",
    "loading": "busy",
    "uploading": "busy",
    "starting": "busy",
    "updating": "busy",
    "stopping": "busy",
    "building": "busy",
    "draining": "busy",
    "pending": "busy",
    "requested": "busy",
    "placed": "busy",
    "fetching": "busy",
    "probing": "busy",
    "unreachable": "bad",
    "failed": "bad",
}


@register.simple_tag
def navigation(visit: Visit, route: str | None) -> pages.Here:
    """The sections there are for who visits, and where the page of this route is."""
    return pages.here(visit, route or "")


@register.filter
def tone(word: str) -> str:
    return _TONES.get(word, "calm")


@register.filter
def words(name: str) -> str:
    """`scaled_to_zero` as people read it."""
    return str(name).replace("_", " ")


@register.filter
def meter(name: str) -> str:
    return _METERS.get(name, name)


@register.filter
def money(amount: Decimal | str | None, currency: str = "EUR") -> str:
    """Two decimals, or more where the price has more: `€0.12`, `€0.0004`."""
    if amount is None or amount == "":
        return "no price"
    try:
        value = Decimal(amount)
    except InvalidOperation:
        return str(amount)
    exponent = value.normalize().as_tuple().exponent
    places = max(2, -exponent) if isinstance(exponent, int) else 2
    sign = _SIGNS.get(currency, f"{currency} ")
    minus = _MINUS if value < 0 else ""
    return f"{minus}{sign}{abs(value):,.{places}f}"


@register.simple_tag
def spent(amount: str, exact: str, currency: str) -> str:
    """The amount as it would be owed; what is less than a cent is not shown as nothing."""
    if Decimal(amount) or not Decimal(exact):
        return money(amount, currency)
    return money(f"{Decimal(exact):.6f}", currency)


@register.filter
def percent(thousandths: int) -> str:
    """Of 1,000, as people read it: `12.5 %`."""
    return f"{thousandths / 10:g} %"


@register.filter
def cents(count: int) -> str:
    """Whole cents as what `money` takes."""
    return format(Decimal(count).scaleb(-2), "f")


@register.filter
def budgeted(amount: int, unit: str) -> str:
    """An amount of a budget: nanoeuro as euro to the cent, the rest as whole units."""
    if unit != "nano_eur":
        return f"{amount:,} {unit.removesuffix('s') if amount == 1 else unit}"
    euro = Decimal(amount).scaleb(-9)
    cents = euro.quantize(Decimal("0.01"))
    return spent(str(cents), str(euro), "EUR")


@register.filter
def quantity(count: int, of: str = "") -> str:
    """Units of a meter: device-seconds as hours and minutes, the rest with thin groups."""
    if of.endswith("_seconds"):
        return duration(count)
    return f"{count:,}".replace("-", _MINUS)


@register.filter
def duration(seconds: float) -> str:
    """`0.42 s`, `7.3 s`, `2 min 05 s`, `3 h 20 min`; what was given back below zero."""
    if seconds < 0:
        return f"{_MINUS}{duration(-seconds)}"
    if seconds < 60:
        if isinstance(seconds, int):
            return f"{seconds} s"
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min"


@register.filter
def seconds(count: float) -> str:
    """Short ones too: `38 ms`, `0.9 ms`."""
    if count >= 1:
        return duration(float(count))
    return f"{1000 * count:.0f} ms" if count >= 0.01 else f"{1000 * count:.1f} ms"


@register.filter
def size(count: float | str | None) -> str:
    """Bytes in binary units."""
    if count in (None, ""):
        return "not reported"
    value = float(count or 0)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} TiB"


@register.filter
def missing(count: float) -> str:
    """Bytes below zero, as what is missing."""
    return size(-count)


@register.filter
def hours(count: Decimal) -> str:
    """`17,856.00`: to compare one below the other."""
    return f"{count:,.2f}"


@register.filter
def whole(count: float) -> str:
    """`131,072`: tokens, and what else is counted one by one."""
    return f"{count:,.0f}"


@register.filter
def moment(at: datetime | None) -> SafeString | str:
    """A time in UTC, to the second, for people and for machines."""
    if at is None:
        return ""
    utc = at.astimezone(UTC)
    return format_html(
        '<time datetime="{}">{}</time>',
        utc.isoformat().replace("+00:00", "Z"),
        utc.strftime("%Y-%m-%d %H:%M:%S"),
    )


@register.filter
def short(id: str) -> str:
    """The end of an id, where ids of one hour differ; the whole one belongs in a title."""
    return f"…{id[-6:]}" if id else ""
