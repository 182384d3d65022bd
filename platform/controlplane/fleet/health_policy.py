"""What a node's findings lead to: data, which an operator may change for each pool.

A rule is about one check. It acts on findings of its severity or worse, once one has held for
`hold_s`, or has come `recurs` times within `within_s`; and what it did is undone when none has
been there for `recover_s`. What is not named in a pool's policy is as here.
"""

from enum import StrEnum
from typing import Any

import msgspec

from controlplane.fleet import errors
from controlplane.fleet.wire import Severity


class Action(StrEnum):
    NOTHING = "nothing"
    CORDON = "cordon"  # nothing new is placed on the node
    DRAIN = "drain"  # and what runs there is moved
    REPLACE = "replace"  # the device is to be replaced: what runs on it is moved


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    action: Action = Action.NOTHING
    at: Severity = Severity.CRITICAL
    hold_s: float = 60.0
    recurs: int = 3
    within_s: float = 3600.0
    recover_s: float = 900.0


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`max_share`: of a pool's nodes, no more than these are out of service by the policy at
    once; one always may be. Where more would be, something else is wrong: an operator decides."""

    max_share: float = 0.2
    rules: dict[str, Rule] = {}

    def rule(self, check: str) -> Rule:
        return self.rules.get(check) or DEFAULT.get(check) or Rule()

    def allowed(self, nodes: int) -> int:
        return max(1, int(nodes * self.max_share))


DEVICE_CHECKS = ("gpu_", "device_")  # how the checks begin that may be about one device
MOST_S = 30 * 86_400.0
MOST_RECURS = 1000

DEFAULT: dict[str, Rule] = {
    "gpu_driver": Rule(action=Action.DRAIN, hold_s=120),
    "gpu_lost": Rule(action=Action.DRAIN),
    "gpu_temperature": Rule(action=Action.CORDON, hold_s=120),
    "gpu_ecc": Rule(action=Action.DRAIN, hold_s=0),
    "gpu_remap_pending": Rule(),
    "gpu_row_remap": Rule(action=Action.REPLACE),
    "gpu_throttled": Rule(),
    "gpu_nvlink": Rule(action=Action.CORDON),
    "gpu_xid_application": Rule(),
    "gpu_xid_reset": Rule(action=Action.DRAIN, hold_s=0),
    "gpu_xid_reboot": Rule(action=Action.DRAIN, hold_s=0),
    "gpu_xid_replace": Rule(action=Action.REPLACE, hold_s=0),
    "gpu_xid_unknown": Rule(),
    "dcgm_exporter": Rule(),
    # Nothing starts on such a device, and the rest of its node serves: what helps is a person.
    "device_dirty": Rule(),
    "orphan": Rule(),
    "disk_free": Rule(action=Action.CORDON, hold_s=120),
    "disk_readonly": Rule(action=Action.DRAIN),
    "memory_pressure": Rule(action=Action.CORDON, hold_s=120),
    "clock_offset": Rule(action=Action.CORDON, hold_s=120),
}


def parse(changes: dict[str, Any]) -> Policy:
    """A pool's policy from what it keeps. Raises errors.InvalidPolicy, which names what is wrong.

    A rule that is named is laid over the default of its check, field by field.
    """
    if not isinstance(changes, dict) or not isinstance(changes.get("rules", {}), dict):
        raise errors.InvalidPolicy("A policy is an object with max_share and rules.")
    unknown = sorted(set(changes.get("rules", {})) - set(DEFAULT))
    if unknown:
        raise errors.InvalidPolicy(
            f"There is no check {unknown[0]!r}: use one of {', '.join(DEFAULT)}."
        )
    try:
        rules = {
            check: msgspec.convert(msgspec.to_builtins(DEFAULT[check]) | change, Rule)
            for check, change in changes.get("rules", {}).items()
        }
        whole = msgspec.convert({**changes, "rules": {}}, Policy, strict=False)
    except (msgspec.ValidationError, TypeError) as error:
        raise errors.InvalidPolicy(f"The policy is not as expected: {error}.") from error
    for check, rule in rules.items():
        _check(check, rule)
    if not 0 <= whole.max_share <= 1:
        raise errors.InvalidPolicy("max_share is a part of the pool's nodes, from 0 to 1.")
    return Policy(max_share=whole.max_share, rules=rules)


def _check(check: str, rule: Rule) -> None:
    for name in ("hold_s", "within_s", "recover_s"):
        if not 0 <= getattr(rule, name) <= MOST_S:
            raise errors.InvalidPolicy(f"{check}: {name} is from 0 to {MOST_S:.0f} seconds.")
    if not 1 <= rule.recurs <= MOST_RECURS:
        raise errors.InvalidPolicy(f"{check}: recurs is from 1 to {MOST_RECURS}.")
    if rule.action is Action.REPLACE and not check.startswith(DEVICE_CHECKS):
        raise errors.InvalidPolicy(f"{check} is not about a device that could be replaced.")
