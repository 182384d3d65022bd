"""A budget as people fill it in; what may be set is billing's."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from django import forms

from billing.models import Unit
from billing.spending import budgets
from frontend.budget_rows import WHOSE

UNITS = {"eur": Unit.NANO_EUR, "tokens": Unit.TOKENS, "calls": Unit.CALLS}
_PLACES = 9
_HARD = [("yes", "refuse what it does not pay for"), ("no", "only warn")]


class AmountField(forms.CharField):
    """A decimal from zero up, as people write it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=30, **options)

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        try:
            amount = Decimal(text.strip() or "0")
        except InvalidOperation:
            raise forms.ValidationError("A number, such as 25 or 0.50.") from None
        if not amount.is_finite() or not 0 <= amount < budgets.AMOUNT_MAX:
            raise forms.ValidationError("A number from zero up.")
        return amount


class ChangeForm(forms.Form):
    """What may be changed of a budget: another window is another budget."""

    amount = AmountField(help_text="Such as 25 or 0.50")
    allowance = AmountField(
        required=False,
        help_text="By how much more answers that run may overrun a hard budget.",
    )
    hard = forms.ChoiceField(label="When it is spent", choices=_HARD)

    def counted(self, unit: str) -> dict[str, Any]:
        """What billing's verbs take, in the unit as it is kept; with errors at those too fine."""
        found: dict[str, Any] = {"hard": self.cleaned_data["hard"] == "yes"}
        for name in ("amount", "allowance"):
            amount: Decimal = self.cleaned_data[name]
            if unit == Unit.NANO_EUR:
                amount = amount.scaleb(_PLACES)
            if amount != amount.to_integral_value():
                self.add_error(name, "That is too fine: euro have nine decimals, others none.")
            found[name] = int(amount)
        return found


class BudgetForm(ChangeForm):
    whose = forms.ChoiceField(
        label="Bounds the spending of", choices=list(WHOSE.items()), initial="project"
    )
    key = forms.ChoiceField(label="API key", required=False, help_text="Where it is of one key.")
    agent = forms.CharField(
        label="Only the agent",
        required=False,
        max_length=128,
        help_text="Where it is of agents: its name, as in x-stoa-agent. Empty: each of them.",
        widget=forms.TextInput(attrs={"autocapitalize": "none", "spellcheck": "false"}),
    )
    unit = forms.ChoiceField(
        choices=[("eur", "euro"), ("tokens", "tokens, in and out"), ("calls", "calls")]
    )
    window = forms.ChoiceField(
        label="In",
        initial="month",
        choices=[("day", "each day"), ("month", "each month"), ("total", "total")],
    )
    time_zone = forms.CharField(
        max_length=64,
        initial="UTC",
        help_text="Whose days and months: such as Europe/Berlin",
    )

    def __init__(self, *args: Any, keys: Mapping[str, str], **more: Any) -> None:
        super().__init__(*args, **more)
        field = self.fields["key"]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [("", "no key"), *keys.items()]

    def clean(self) -> None:
        of_key = self.cleaned_data.get("whose") == "key"
        if of_key and not self.cleaned_data.get("key"):
            self.add_error("key", "Choose the key.")
        if not of_key and self.cleaned_data.get("key"):
            self.add_error("key", "Only a budget of one API key names one.")


def shown(amount: int, unit: str) -> str:
    """As a field has it: euro without the zeros that say nothing, the rest as whole units."""
    if unit != Unit.NANO_EUR:
        return str(amount)
    return f"{Decimal(amount).scaleb(-_PLACES).normalize():f}"
