"""A pool's health policy as people fill it in; what may be in one is fleet.health_policy's."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from django import forms
from django.forms import BoundField

from controlplane.fleet.health_policy import (
    DEFAULT,
    DEVICE_CHECKS,
    MOST_RECURS,
    MOST_S,
    Action,
    Policy,
    Rule,
)
from controlplane.fleet.wire import Severity

# As the table has them: a rule's field, how it is called, and how narrow screens call it.
FIELDS = {
    "action": "What is done",
    "at": "From which severity",
    "hold_s": "Held for (s)",
    "recurs": "Or times",
    "within_s": "within (s)",
    "recover_s": "Back after (s)",
}
_SECONDS = ("hold_s", "within_s", "recover_s")
_SHARE = "max_share"


@dataclass(frozen=True)
class Cell:
    """`default`: what it would be, where it is another."""

    label: str
    field: BoundField
    default: str


@dataclass(frozen=True)
class Row:
    check: str
    cells: list[Cell]
    changed: bool  # as it is kept


class HealthForm(forms.Form):
    """A field `CHECK-FIELD` for each of a rule's; `back` names one rule, or max_share, that goes
    back to its default whatever its fields say."""

    kept = forms.CharField(widget=forms.HiddenInput)
    back = forms.CharField(required=False)
    max_share = forms.FloatField(
        label="Most nodes out of service by the policy at once, in % of the pool",
        min_value=0,
        max_value=100,
        help_text="One always may be. Where more would be, none more is taken out; that is told.",
    )

    def __init__(self, policy: Policy, kept: dict[str, Any], data: Any = None) -> None:
        self.policy = policy
        first: dict[str, Any] = {"kept": fingerprint(kept), _SHARE: _plain(policy.max_share * 100)}
        for check in DEFAULT:
            rule = msgspec.to_builtins(policy.rule(check))
            first |= {f"{check}-{name}": _plain(rule[name]) for name in FIELDS}
        super().__init__(data, initial=first)
        for check in DEFAULT:
            for name, label in FIELDS.items():
                self.fields[f"{check}-{name}"] = _field(check, name, f"{check}: {label}")
        self.order_fields(["kept", "back", _SHARE])

    def full_clean(self) -> None:
        """A rule that goes back to its default is not asked what stands in its fields."""
        back = self.data.get("back") if self.is_bound else None
        spared = [
            field
            for name, field in self.fields.items()
            if back and (name == back or name.startswith(f"{back}-"))
        ]
        for field in spared:
            field.disabled = True  # its initial value counts
        super().full_clean()
        for field in spared:
            field.disabled = False

    def clean_kept(self) -> str:
        kept: str = self.cleaned_data["kept"]
        if kept != self.initial["kept"]:
            raise forms.ValidationError("stale")
        return kept

    def clean_back(self) -> str:
        back: str = self.cleaned_data["back"]
        if back and back not in (*DEFAULT, _SHARE):
            raise forms.ValidationError(f"There is no rule of that name: {back}.")
        return back

    def changes(self) -> dict[str, Any]:
        """Of a valid form: what differs from the default, as `health.set_policy` takes it."""
        back, rules = self.cleaned_data["back"], {}
        for check in DEFAULT:
            default = msgspec.to_builtins(DEFAULT[check])
            said = {name: self.cleaned_data[f"{check}-{name}"] for name in FIELDS}
            other = {name: value for name, value in said.items() if value != default[name]}
            if other and check != back:
                rules[check] = other
        share = round(self.cleaned_data[_SHARE] / 100, 6)
        changes: dict[str, Any] = {}
        if share != Policy().max_share and back != _SHARE:
            changes[_SHARE] = share
        return changes | ({"rules": rules} if rules else {})

    def rows(self) -> Iterator[Row]:
        for check, default in DEFAULT.items():
            rule = self.policy.rule(check)
            cells = [self._cell(check, name, rule, default) for name in FIELDS]
            yield Row(check, cells, rule != default)

    def _cell(self, check: str, name: str, rule: Rule, default: Rule) -> Cell:
        value = getattr(default, name)
        same = getattr(rule, name) == value
        return Cell(FIELDS[name], self[f"{check}-{name}"], "" if same else str(_plain(value)))

    @property
    def stale(self) -> bool:
        """Whether the policy was changed since the form was shown."""
        return self.is_bound and "kept" in self.errors

    @property
    def share_default(self) -> str:
        """What max_share would be, in %, where it is another."""
        default = Policy().max_share
        return "" if self.policy.max_share == default else str(_plain(default * 100))


def fingerprint(kept: dict[str, Any]) -> str:
    """Of what a pool keeps, so that nobody overwrites what they have not seen."""
    said = msgspec.json.encode(kept, order="deterministic")
    return hashlib.sha256(said).hexdigest()[:16]


def _field(check: str, name: str, label: str) -> forms.Field:
    words = {"aria-label": label}
    if name == "action":
        device = check.startswith(DEVICE_CHECKS)
        actions = [one.value for one in Action if device or one is not Action.REPLACE]
        return forms.ChoiceField(choices=_same(actions), widget=forms.Select(words))
    if name == "at":
        severities = [one.value for one in Severity]
        return forms.ChoiceField(choices=_same(severities), widget=forms.Select(words))
    number = forms.NumberInput(words)
    if name in _SECONDS:
        return forms.FloatField(min_value=0, max_value=MOST_S, widget=number)
    return forms.IntegerField(min_value=1, max_value=MOST_RECURS, widget=number)


def _same(words: list[str]) -> list[tuple[str, str]]:
    return [(one, one) for one in words]


def _plain(value: Any) -> Any:
    """Without a fraction where there is none."""
    return round(value, 6) if isinstance(value, float) and value % 1 else _whole(value)


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) else value
