"""What several forms of the console have in common."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django import forms

from billing.errors import BudgetConflict, BudgetRefused, ProfileRefused
from controlplane.tenancy import limits
from controlplane.tenancy.errors import Conflict, Invalid


class RatesForm(forms.Form):
    """The limits that keys, projects and organizations have; an empty one is none."""

    requests_per_minute = forms.IntegerField(
        label="Requests a minute", required=False, min_value=1, max_value=limits.MAX_RATE
    )
    concurrency = forms.IntegerField(
        label="Requests at once", required=False, min_value=1, max_value=limits.MAX_RATE
    )
    input_tokens_per_minute = forms.IntegerField(
        label="Input tokens a minute", required=False, min_value=1, max_value=limits.MAX_RATE
    )
    output_tokens_per_minute = forms.IntegerField(
        label="Output tokens a minute", required=False, min_value=1, max_value=limits.MAX_RATE
    )


class NamesField(forms.Field):
    """Names with commas, blanks or line ends between; cleaned to a list of them."""

    def to_python(self, value: Any) -> list[str]:
        return [one for one in re.split(r"[,\s]+", value or "") if one]

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(value) if isinstance(value, list) else value


@contextmanager
def blaming(form: forms.Form, otherwise: str = "") -> Iterator[None]:
    """Around a verb: what the house refuses stands beside the field that it is about, and the
    form is not valid any more. `otherwise`: the field where the form has none of that name."""
    try:
        yield
    except (Conflict, Invalid, BudgetRefused, BudgetConflict, ProfileRefused) as error:
        field = "" if isinstance(error, BudgetConflict) else error.field
        field = field if field in form.fields else field.partition(".")[0]
        form.add_error(field if field in form.fields else otherwise or None, str(error))


def pairs(text: str, form: str) -> list[tuple[str, str]]:
    """Lines of NAME=VALUE. Raises ValidationError; `form` says what is expected."""
    found = []
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if not line.strip():
            continue
        if not equals or not name.strip():
            raise forms.ValidationError(f"expected {form} on each line, not {line.strip()[:80]!r}")
        found.append((name.strip(), value.strip()))
    return found
