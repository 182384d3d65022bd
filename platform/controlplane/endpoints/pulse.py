"""When the control plane itself was up: a node's silence counts only while somebody listened.

The sweep beats `sweep`, the web process (which hears the nodes) beats `door`. After an outage of
ours every node looks silent; nobody may be given up for that.
"""

from datetime import datetime, timedelta

from controlplane.endpoints.models import Pulse

SWEEP = "sweep"
DOOR = "door"


def beat(name: str, *, now: datetime, gap_s: float) -> None:
    """We are up. Longer than `gap_s` since the last beat: we were not, and start to count anew."""
    pulse, born = Pulse.objects.get_or_create(name=name, defaults={"since": now, "at": now})
    if born:
        return
    listened = now - pulse.at <= timedelta(seconds=gap_s)
    # Guarded by `at`: of two beats at once one is enough.
    Pulse.objects.filter(name=name, at=pulse.at, at__lt=now).update(
        at=now, since=pulse.since if listened else now
    )


def listening_since(*, now: datetime, gap_s: float) -> datetime | None:
    """Since when all who beat have been up without a gap; None while one of them is not."""
    since: datetime | None = None
    for pulse in Pulse.objects.all():
        if now - pulse.at > timedelta(seconds=gap_s):
            return None
        since = pulse.since if since is None else max(since, pulse.since)
    return since
