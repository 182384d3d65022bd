"""A run policy as people fill it in; what may be in one is tenancy.run_policies'."""

from collections.abc import Iterator, Mapping
from typing import Any

from django import forms
from django.forms import BoundField

from controlplane.tenancy import run_policies
from controlplane.tenancy.errors import Invalid

_DEFAULT, _OWN = "default", "own"
_LIMITS = {
    "max_calls": "Calls at most",
    "max_depth": "Levels at most",
    "max_seconds": "Seconds at most",
    "slow_s": "Seconds of a slowing",
}
_MEASURES = {
    "calls_per_minute": "Calls a minute",
    "eur_per_minute": "Euro a minute",
    "depth": "Levels of the run",
    "repeats": "Prompts that repeat themselves, in 5 minutes",
}


class PolicyForm(forms.Form):
    """Its fields are those of run_policies: `max_depth`, and `depth_warn` for the step of one."""

    own = forms.ChoiceField(
        label="Policy",
        choices=[
            (_DEFAULT, "the gateway's default, which only warns"),
            (_OWN, "the project's own, as below"),
        ],
    )

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        for name, (least, most) in run_policies.LIMITS.items():
            self.fields[name] = _number(name, least, most)
        for name in run_policies.MEASURES:
            for step in run_policies.STEPS:
                self.fields[f"{name}_{step}"] = forms.FloatField(
                    label=step, required=False, max_value=run_policies.VALUE_MAX
                )

    @staticmethod
    def filled(policy: Mapping[str, Any] | None) -> dict[str, Any]:
        """A policy as it is kept, as the initial values."""
        found: dict[str, Any] = {"own": _DEFAULT if policy is None else _OWN}
        for name, value in (policy or {}).items():
            steps = value.items() if isinstance(value, Mapping) else ()
            found |= {f"{name}_{step}": each for step, each in steps} if steps else {name: value}
        return found

    def policy(self) -> dict[str, Any] | None:
        """Of a valid form, as `run_policies.checked` takes it; None: the gateway's default."""
        if self.cleaned_data["own"] == _DEFAULT:
            return None
        found = {name: _plain(self.cleaned_data[name]) for name in run_policies.LIMITS}
        for name in run_policies.MEASURES:
            found[name] = self._steps(name)
        return {name: value for name, value in found.items() if value not in (None, {})}

    def clean(self) -> None:
        """Each measure is checked by itself, so that what is wrong stands where it is."""
        for name in run_policies.MEASURES:
            try:
                run_policies.checked({name: self._steps(name)})
            except Invalid as error:
                words = error.message.partition(" is ")[2]
                self.add_error(f"{name}_{run_policies.STEPS[0]}", f"Give them {words}.")

    def limits(self) -> Iterator[BoundField]:
        return (self[name] for name in run_policies.LIMITS)

    def measures(self) -> Iterator[tuple[str, list[BoundField]]]:
        """What each is called, with its steps in their order."""
        for name in run_policies.MEASURES:
            yield (
                _MEASURES.get(name, name),
                [self[f"{name}_{step}"] for step in run_policies.STEPS],
            )

    def _steps(self, name: str) -> dict[str, float]:
        given = {step: self.cleaned_data.get(f"{name}_{step}") for step in run_policies.STEPS}
        return {step: _plain(value) for step, value in given.items() if value is not None}


def _number(name: str, least: float, most: float) -> forms.Field:
    label = _LIMITS.get(name, name)
    if name in run_policies.WHOLE:
        return forms.IntegerField(
            label=label, required=False, min_value=int(least), max_value=int(most)
        )
    return forms.FloatField(label=label, required=False, min_value=least, max_value=most)


def _plain(value: Any) -> Any:
    """60.0 as 60: the way that it was typed."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
