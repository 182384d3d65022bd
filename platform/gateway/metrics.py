"""Prometheus figures. Labels are operations and statuses: their number is bounded by the code."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping

from gateway.usage import Usage

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class _Histogram:
    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(_BUCKETS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(_BUCKETS, seconds)] += 1
        self.total += seconds

    def lines(self, name: str, labels: str) -> list[str]:
        lines, running = [], 0
        for bound, count in zip((*_BUCKETS, "+Inf"), self.counts, strict=True):
            running += count
            lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {running}')
        lines.append(f"{name}_sum{{{labels}}} {self.total:.6f}")
        lines.append(f"{name}_count{{{labels}}} {running}")
        return lines


class Metrics:
    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.tokens: Counter[tuple[str, str]] = Counter()
        self.cut: Counter[str] = Counter()
        self.in_flight = 0
        self.waiting = 0
        self.retries = 0
        self.unrecorded = 0
        self._seconds: dict[str, _Histogram] = {}

    def served(self, operation: str, status: int, finish: str, used: Usage, seconds: float) -> None:
        """One request that ended; `operation` is one of gateway.operations or a page's name."""
        self.requests[operation, status] += 1
        self._seconds.setdefault(operation, _Histogram()).observe(seconds)
        if finish != "complete":
            self.cut[finish] += 1
        if used.input or used.output:
            self.tokens[operation, "input"] += used.input
            self.tokens[operation, "cached"] += used.cached
            self.tokens[operation, "output"] += used.output

    def refused(self, operation: str, status: int) -> None:
        self.requests[operation, status] += 1

    def text(self, gauges: Mapping[str, float]) -> bytes:
        """The exposition format, version 0.0.4. `gauges` adds figures of other parts."""
        lines = ["# TYPE stoa_gateway_requests_total counter"]
        for (operation, status), count in sorted(self.requests.items()):
            labels = f'operation="{operation}",status="{status}"'
            lines.append(f"stoa_gateway_requests_total{{{labels}}} {count}")
        lines.append("# TYPE stoa_gateway_tokens_total counter")
        for (operation, kind), count in sorted(self.tokens.items()):
            labels = f'operation="{operation}",kind="{kind}"'
            lines.append(f"stoa_gateway_tokens_total{{{labels}}} {count}")
        lines.append("# TYPE stoa_gateway_cut_total counter")
        for finish, count in sorted(self.cut.items()):
            lines.append(f'stoa_gateway_cut_total{{finish="{finish}"}} {count}')
        lines.append("# TYPE stoa_gateway_request_seconds histogram")
        for operation, histogram in sorted(self._seconds.items()):
            lines += histogram.lines("stoa_gateway_request_seconds", f'operation="{operation}"')
        own = {
            "in_flight": self.in_flight,
            "waiting": self.waiting,
            "retries_total": self.retries,
            "unrecorded_total": self.unrecorded,
        }
        for name, value in {**own, **gauges}.items():
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# TYPE stoa_gateway_{name} {kind}", f"stoa_gateway_{name} {value:.16g}"]
        return ("\n".join(lines) + "\n").encode()
