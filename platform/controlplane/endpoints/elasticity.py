"""What somebody sets for an endpoint's scaling beyond its bounds: read, checked, and as a wish.

Columns hold it as JSON in the shape in which it is given:

    schedules      [{"cron": "0 8 * * mon-fri", "time_zone": "Europe/Berlin",
                     "duration_s": 36000, "replicas": 2}]
    bursts         [{"workers": 20, "at": "2026-03-04T12:03:00+00:00",
                     "until": "2026-03-04T13:03:00+00:00", "sequences": 1}]
    keep_warm_cap  {"seconds": 3600, "euro": "2.50", "time_zone": "Europe/Berlin"}, or null
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any
from zoneinfo import ZoneInfo

from controlplane.endpoints.errors import Invalid
from controlplane.endpoints.models import Endpoint
from controlplane.scaling.caps import NO_CAP, Cap
from controlplane.scaling.decide import Wish
from controlplane.scaling.policy import KeepAlive, Policy
from controlplane.scaling.schedules import Burst, Schedule

FIELDS = ("keep_alive", "schedules", "bursts", "keep_warm_cap")
MAX_SCHEDULES = 32
MAX_BURSTS = 32
MAX_WORKERS = 10_000
LONGEST_BURST = timedelta(days=1)
FARTHEST_BURST = timedelta(days=31)
DAY_S = 86_400
MAX_EURO = Decimal(1_000_000)


def wish(endpoint: Endpoint, hourly: Decimal = Decimal(0)) -> Wish:
    """For `scaling.decide`. `hourly`: what a replica costs, in euro."""
    return Wish(
        min_replicas=endpoint.min_replicas,
        max_replicas=endpoint.max_replicas,
        policy=Policy(
            keep_alive=KeepAlive(endpoint.keep_alive),
            scale_to_zero_timeout_s=float(endpoint.scale_to_zero_timeout_s),
        ),
        schedules=[Schedule(**one) for one in endpoint.schedules],
        bursts=[_burst(one) for one in endpoint.bursts],
        cap=_cap(endpoint.keep_warm_cap),
        hourly=hourly,
    )


def checked(given: Mapping[str, Any], max_replicas: int) -> dict[str, Any]:
    """Some of FIELDS, as they are kept; Invalid says what cannot be."""
    kept: dict[str, Any] = {}
    for name, value in given.items():
        match name:
            case "keep_alive":
                kept[name] = _keep_alive(value)
            case "schedules":
                kept[name] = _schedules(value, max_replicas)
            case "bursts":
                kept[name] = _bursts(value)
            case "keep_warm_cap":
                kept[name] = _keep_warm_cap(value)
    return kept


def _keep_alive(given: Any) -> str:
    try:
        return KeepAlive(given).value
    except ValueError:
        known = ", ".join(KeepAlive)
        raise _invalid("keep_alive", f"expected one of {known}") from None


def _schedules(given: Any, max_replicas: int) -> list[dict[str, Any]]:
    kept = []
    for one in _list("schedules", given, MAX_SCHEDULES):
        _keys("schedules", one, {"cron", "time_zone", "duration_s"}, {"replicas"})
        replicas = _whole("schedules", one.get("replicas", 1), 1, 10_000)
        if replicas > max_replicas:
            message = f"a schedule for {replicas} replicas, of which there are {max_replicas}"
            raise _invalid("schedules", message)
        duration_s = _whole("schedules", one["duration_s"], 1, 7 * DAY_S)
        row: dict[str, Any] = {
            "cron": str(one["cron"]).strip()[:200],
            "time_zone": str(one["time_zone"])[:64],
            "duration_s": duration_s,
            "replicas": replicas,
        }
        try:
            Schedule(**row)
        except ValueError as error:
            raise _invalid("schedules", str(error)) from None
        kept.append(row)
    return kept


def _bursts(given: Any) -> list[dict[str, Any]]:
    kept = []
    for one in _list("bursts", given, MAX_BURSTS):
        _keys("bursts", one, {"workers", "at", "until"}, {"sequences"})
        at, until = _moment(one["at"]), _moment(one["until"])
        if not at < until <= at + LONGEST_BURST:
            raise _invalid("bursts", "a burst ends after it begins, within a day")
        kept.append(
            {
                "workers": _whole("bursts", one["workers"], 1, MAX_WORKERS),
                "at": at.isoformat(),
                "until": until.isoformat(),
                "sequences": _whole("bursts", one.get("sequences", 1), 1, MAX_WORKERS),
            }
        )
    return kept


def with_burst(
    known: Sequence[Mapping[str, Any]],
    *,
    workers: int,
    in_s: float,
    for_s: float,
    sequences: int,
    now: datetime,
) -> list[dict[str, Any]]:
    """Those that are not over, and "`workers` workers in `in_s` seconds, for `for_s`"."""
    if not 0 <= in_s <= FARTHEST_BURST.total_seconds():
        raise _invalid("in_s", f"expected 0 to {FARTHEST_BURST.days} days, in seconds")
    if not 1 <= for_s <= LONGEST_BURST.total_seconds():
        raise _invalid("for_s", "expected 1 second to a day")
    at = now + timedelta(seconds=in_s)
    until = at + timedelta(seconds=for_s)
    new = {"workers": workers, "at": at, "until": until, "sequences": sequences}
    lasting = [one for one in known if _moment(one["until"]) > now]
    return _bursts([*lasting, new])


def _keep_warm_cap(given: Any) -> dict[str, Any] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise _invalid("keep_warm_cap", "expected `seconds`, `euro` or both, and a `time_zone`")
    _keys("keep_warm_cap", given, set(), {"seconds", "euro", "time_zone"})
    seconds, euro = given.get("seconds"), given.get("euro")
    if seconds is None and euro is None:
        raise _invalid("keep_warm_cap", "a cap has `seconds`, `euro` or both")
    kept: dict[str, Any] = {
        "seconds": None if seconds is None else _whole("keep_warm_cap", seconds, 0, 100 * DAY_S),
        "euro": None if euro is None else str(_euro(euro)),
        "time_zone": str(given.get("time_zone") or "UTC")[:64],
    }
    try:
        ZoneInfo(kept["time_zone"])
    except (KeyError, ValueError, OSError):
        message = f"no such time zone: {kept['time_zone']!r}"
        raise _invalid("keep_warm_cap", message) from None
    return kept


def _cap(kept: Mapping[str, Any] | None) -> Cap:
    if kept is None:
        return NO_CAP
    euro = kept["euro"]
    return Cap(kept["seconds"], None if euro is None else Decimal(euro), kept["time_zone"])


def _burst(kept: Mapping[str, Any]) -> Burst:
    at, until = _moment(kept["at"]), _moment(kept["until"])
    return Burst(kept["workers"], at, until, kept["sequences"])


def _list(field: str, given: Any, most: int) -> Sequence[Mapping[str, Any]]:
    if not isinstance(given, list | tuple) or not all(isinstance(one, Mapping) for one in given):
        raise _invalid(field, "expected a list of objects")
    if len(given) > most:
        raise _invalid(field, f"expected at most {most}, not {len(given)}")
    return given


def _keys(field: str, given: Mapping[str, Any], needed: set[str], others: set[str]) -> None:
    if missing := needed - given.keys():
        raise _invalid(field, f"{', '.join(sorted(missing))} is missing")
    if unknown := given.keys() - needed - others:
        raise _invalid(field, f"unknown: {', '.join(sorted(map(str, unknown)))[:80]}")


def _whole(field: str, given: Any, least: int, most: int) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= most:
        raise _invalid(field, f"expected a whole number from {least} to {most}")
    return given


def _moment(given: Any) -> datetime:
    try:
        moment = given if isinstance(given, datetime) else datetime.fromisoformat(given)
        aware = moment.tzinfo is not None
    except (TypeError, ValueError):
        aware = False
    if not aware:
        raise _invalid("bursts", "expected a moment with its offset, such as 2026-03-04T12:00:00Z")
    return moment


def _euro(given: Any) -> Decimal:
    try:
        euro = Decimal(str(given))
    except InvalidOperation:
        euro = Decimal("NaN")
    if not euro.is_finite() or not 0 <= euro <= MAX_EURO or euro != round(euro, 2):
        message = f"expected 0 to {MAX_EURO} euro, with at most two decimals"
        raise _invalid("keep_warm_cap", message)
    return round(euro, 2)


def _invalid(field: str, message: str) -> Invalid:
    return Invalid(message, code=f"invalid_{field}", field=field)
