"""Since when we have been up."""

from datetime import timedelta

from controlplane.endpoints import pulse
from controlplane.endpoints.models import Pulse
from tests.endpoints.world import START, World

GAP_S = 10.0


def beat(name: str, at_s: float) -> None:
    pulse.beat(name, now=START + timedelta(seconds=at_s), gap_s=GAP_S)


def since(at_s: float) -> float | None:
    found = pulse.listening_since(now=START + timedelta(seconds=at_s), gap_s=GAP_S)
    return None if found is None else (found - START).total_seconds()


def test_without_a_gap_it_counts_on(world: World) -> None:
    Pulse.objects.all().delete()
    assert since(0) is None
    for at_s in (0, 10, 20):
        beat(pulse.SWEEP, at_s)
    assert since(30) == 0
    assert since(31) is None
    beat(pulse.SWEEP, 31)
    assert since(31) == 31
    beat(pulse.SWEEP, 5)  # another host's clock lags
    assert since(31) == 31


def test_everybody_who_listens_must_be_up(world: World) -> None:
    Pulse.objects.all().delete()
    for at_s in range(0, 40, 5):
        beat(pulse.SWEEP, at_s)
    beat(pulse.DOOR, 0)
    assert since(35) is None
    beat(pulse.DOOR, 35)
    assert since(35) == 35
