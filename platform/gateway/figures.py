"""The figures of several workers as those of one gateway (Prometheus' text, version 0.0.4)."""

from collections.abc import Iterable

# Everything else is added up.
_LEAST = {"stoa_gateway_spool_healthy", "stoa_gateway_directory_generation"}
_MOST = {
    "stoa_gateway_replicas_out",
    *(
        f"stoa_gateway_directory_{what}"
        for what in ("age_seconds", "keys", "endpoints", "replicas")
    ),
}

Family = tuple[str, dict[str, float]]  # its kind; values by series


def merge(texts: Iterable[bytes]) -> bytes:
    families: dict[str, Family] = {}
    for text in texts:
        for name, (kind, series) in _read(text).items():
            _, known = families.setdefault(name, (kind, {}))
            for label, value in series.items():
                if label not in known:
                    known[label] = value
                elif name in _LEAST:
                    known[label] = min(known[label], value)
                elif name in _MOST:
                    known[label] = max(known[label], value)
                else:
                    known[label] += value
    return _write(families)


def lasting(text: bytes) -> bytes:
    """What of a worker's figures still counts when the worker has ended."""
    families = _read(text)
    return _write({name: each for name, each in families.items() if each[0] != "gauge"})


def _read(text: bytes) -> dict[str, Family]:
    families: dict[str, Family] = {}
    series: dict[str, float] = {}
    for line in text.decode().splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            series = families.setdefault(name, (kind, {}))[1]
        elif line and not line.startswith("#"):
            label, _, value = line.rpartition(" ")
            series[label] = int(value) if value.isdigit() else float(value)
    return families


def _write(families: dict[str, Family]) -> bytes:
    lines = []
    for name, (kind, series) in families.items():
        lines.append(f"# TYPE {name} {kind}")
        lines += [f"{label} {value:.16g}" for label, value in series.items()]
    return ("\n".join(lines) + "\n").encode() if lines else b""
