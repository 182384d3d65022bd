"""What a tenant chooses, as data: predictable by default, automatic when asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from controlplane.scaling import keepalive
from controlplane.scaling.desired import USUAL, Windows
from controlplane.scaling.gaps import GapHistory
from controlplane.scaling.keepalive import Step, Tier

ASLEEP, OFF = "asleep", "off"


class KeepAlive(StrEnum):
    """`predictable`: hot for `scale_to_zero_timeout_s`, then off. `automatic`: ski rental, as the
    endpoint's own gaps teach it."""

    PREDICTABLE = "predictable"
    AUTOMATIC = "automatic"


@dataclass(frozen=True, slots=True)
class Policy:
    """`wait_value`: what a second of somebody's waiting costs, in seconds of a hot replica.

    It counts for `automatic` alone, `scale_to_zero_timeout_s` for `predictable` alone. ValueError
    if one is no such number.
    """

    keep_alive: KeepAlive = KeepAlive.PREDICTABLE
    scale_to_zero_timeout_s: float = 3600.0
    wait_value: float = 4.0
    windows: Windows = USUAL

    def __post_init__(self) -> None:
        for name in ("scale_to_zero_timeout_s", "wait_value"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: {getattr(self, name)}")

    def tiers(
        self, start_s: float, wake_s: float | None = None, sleep_rent: float = 0.0
    ) -> tuple[Tier, ...]:
        """What an endpoint can wait in: off, and asleep where its engine can sleep (`wake_s`).

        `sleep_rent`: of a second asleep, in seconds of a hot replica.
        """
        tiers = [keepalive.HOT, keepalive.tier(OFF, 0.0, start_s, self.wait_value)]
        if wake_s is not None:
            tiers.append(keepalive.tier(ASLEEP, sleep_rent, wake_s, self.wait_value))
        return keepalive.envelope(tiers)

    def steps(self, tiers: Sequence[Tier], history: GapHistory) -> tuple[Step, ...]:
        if self.keep_alive is KeepAlive.PREDICTABLE:
            return keepalive.fixed(self.scale_to_zero_timeout_s, tiers)
        return keepalive.plan(tiers, history)


PREDICTABLE = Policy()
AUTOMATIC = Policy(KeepAlive.AUTOMATIC)
