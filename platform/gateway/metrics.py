"""Prometheus figures of one process.

Labels are bounded: operations, statuses and codes by the code, endpoints by the directory.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from gateway import series
from gateway.directory import Endpoint
from gateway.errors import ApiError
from gateway.series import Histogram, Series
from gateway.spans import GEN_AI_NAMES

GONE = "gone"  # stands for all endpoints that the directory no longer has
_NO_CODE = "none"

Kept = tuple[str, str, Series]  # operation, endpoint


class Metrics:
    def __init__(self) -> None:
        self.in_flight = 0
        self.waiting = 0
        self.retries = 0
        self.unrecorded = 0
        self.turned_away = 0  # clients for whom there was no room
        self.upstream_errors: Counter[str] = Counter()  # by what went wrong, of a few words
        self._answered: Counter[tuple[str, int]] = Counter()  # without an endpoint
        self._refusals: Counter[str] = Counter()
        self._starts: dict[str, Histogram] = {}  # of replicas, by tier
        self._starts_missed: Counter[str] = Counter()
        self._series: dict[tuple[str, str], Series] = {}

    def of(self, operation: str, endpoint: Endpoint) -> Series:
        found = self._series.get((operation, endpoint.id))
        if found is None:
            found = self._series[operation, endpoint.id] = Series(endpoint.model)
        return found

    def answered(self, operation: str, status: int, error: ApiError | None = None) -> None:
        """By us alone. `operation` is one of gateway.operations or a page's name."""
        self._answered[operation, status] += 1
        if error is not None:
            self.refusal(error.code)

    def started(self, tier: str, seconds: float, missed: bool) -> None:
        """A replica came to be routed to; `tier` is one of a few words."""
        tier = tier or "unknown"
        self._starts.setdefault(tier, Histogram(series.SECONDS)).observe(seconds)
        self._starts_missed[tier] += missed

    def refusal(self, code: str | None) -> None:
        """`code` is an ApiError's: one of those that stand in our code."""
        self._refusals[code or _NO_CODE] += 1

    def endpoints(self) -> set[str]:
        return {endpoint_id for _, endpoint_id in self._series}

    def forget(self, known: Callable[[str], bool]) -> None:
        """What was counted for endpoints that are not `known` any more goes on as GONE's."""
        for (operation, endpoint_id), old in list(self._series.items()):
            if endpoint_id != GONE and not known(endpoint_id):
                del self._series[operation, endpoint_id]
                self._series.setdefault((operation, GONE), Series("")).add(old)

    def text(self, gauges: Mapping[str, float]) -> bytes:
        """The exposition format, version 0.0.4. `gauges` adds figures of other parts."""
        kept = [(name, endpoint, one) for (name, endpoint), one in sorted(self._series.items())]
        lines = [*self._counters(kept), *_seconds(kept), *_waits(kept), *_gen_ai(kept)]
        own = {
            "stoa_gateway_in_flight": self.in_flight,
            "stoa_gateway_waiting": self.waiting,
            "stoa_gateway_retries_total": self.retries,
            "stoa_gateway_unrecorded_total": self.unrecorded,
            "stoa_gateway_turned_away_total": self.turned_away,
        }
        for name, value in {**own, **gauges}.items():
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# TYPE {name} {kind}", f"{name} {value:.16g}"]
        return ("\n".join(lines) + "\n").encode()

    def _counters(self, kept: Iterable[Kept]) -> Iterator[str]:
        yield "# TYPE stoa_gateway_requests_total counter"
        for (operation, status), count in sorted(self._answered.items()):
            labels = f'operation="{operation}",endpoint="",status="{status}"'
            yield f"stoa_gateway_requests_total{{{labels}}} {count}"
        for operation, endpoint, one in kept:
            for status, count in sorted(one.requests.items()):
                labels = f'operation="{operation}",endpoint="{endpoint}",status="{status}"'
                yield f"stoa_gateway_requests_total{{{labels}}} {count}"
        yield "# TYPE stoa_gateway_tokens_total counter"
        for operation, endpoint, one in kept:
            for kind in ("input", "cached", "output"):
                labels = f'operation="{operation}",endpoint="{endpoint}",kind="{kind}"'
                yield f"stoa_gateway_tokens_total{{{labels}}} {getattr(one, kind)}"
        cut: Counter[str] = Counter()
        for _, _, one in kept:
            cut.update(one.cut)
        yield from _counter("cut_total", "finish", cut)
        yield from _counter("refusals_total", "code", self._refusals)
        yield from _counter("upstream_errors_total", "reason", self.upstream_errors)
        yield from _counter("starts_missed_total", "tier", self._starts_missed)
        yield "# TYPE stoa_gateway_start_seconds histogram"
        for tier, starts in sorted(self._starts.items()):
            labels = f'tier="{tier}"'
            yield from starts.lines("stoa_gateway_start_seconds", labels, series.SECONDS)


def _counter(name: str, label: str, counts: Mapping[str, int]) -> Iterator[str]:
    yield f"# TYPE stoa_gateway_{name} counter"
    for value, count in sorted(counts.items()):
        yield f'stoa_gateway_{name}{{{label}="{value}"}} {count}'


def _seconds(kept: Iterable[Kept]) -> Iterator[str]:
    """Of all requests that found their endpoint, however they ended."""
    sums: dict[str, Histogram] = {}
    for operation, _, one in kept:
        found = sums.setdefault(operation, Histogram(one.seconds.bounds))
        found.add(one.seconds)
        found.add(one.cut_seconds)
    yield "# TYPE stoa_gateway_request_seconds histogram"
    for operation, found in sums.items():
        labels = f'operation="{operation}"'
        yield from found.lines("stoa_gateway_request_seconds", labels, series.SECONDS)


def _waits(kept: Collection[Kept]) -> Iterator[str]:
    for what in ("queue", "wake"):
        name = f"stoa_gateway_{what}_seconds"
        yield f"# TYPE {name} histogram"
        for operation, endpoint, one in kept:
            found: Histogram = getattr(one, what)
            if any(found.counts):
                labels = f'operation="{operation}",endpoint="{endpoint}"'
                yield from found.lines(name, labels, series.SECONDS)


def _gen_ai(kept: Collection[Kept]) -> Iterator[str]:
    """OpenTelemetry's names, of the requests that were answered completely."""
    for what, attribute, shown in (
        ("request_duration", "seconds", series.DURATION),
        ("time_to_first_token", "first", series.FIRST),
        ("time_per_output_token", "each", series.EACH),
    ):
        name = f"gen_ai_server_{what}_seconds"
        yield f"# TYPE {name} histogram"
        for operation, endpoint, one in kept:
            found: Histogram = getattr(one, attribute)
            if any(found.counts):
                labels = (
                    f'gen_ai_operation_name="{GEN_AI_NAMES.get(operation, operation)}",'
                    f'gen_ai_provider_name="stoa",'
                    f'gen_ai_request_model="{_escaped(one.model)}",endpoint="{endpoint}"'
                )
                yield from found.lines(name, labels, shown)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
