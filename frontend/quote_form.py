"""A question for a quote as people fill it in; what may be asked is endpoints.quoting's."""

from typing import Any

from django import forms

from controlplane.endpoints.models import Quote
from frontend.source_form import SourceForm

LOAD, JOB = "load", "job"
_SHAPE = ("prompt_tokens", "output_tokens")
_OF = {LOAD: ("requests_per_second",), JOB: ("requests", "deadline_s")}
_SLO = ("ttft_p95_s", "tpot_p95_s")
# What an engine can do to a checkpoint while it loads it.
_ONLINE = ("fp8", "bitsandbytes", "mxfp4")


class QuoteForm(SourceForm):
    """`body` gives what `quote_keeping.create` understands."""

    demand = forms.ChoiceField(
        label="What it is for",
        choices=[(LOAD, "requests as they come"), (JOB, "a batch job")],
        initial=LOAD,
        widget=forms.RadioSelect,
    )
    requests_per_second = forms.FloatField(
        label="Requests a second", required=False, initial=1, help_text="In the busy hour."
    )
    requests = forms.IntegerField(label="Requests", required=False, help_text="In all.")
    deadline_s = forms.FloatField(
        label="Done within, in seconds", required=False, help_text="Empty: whenever it is cheapest."
    )
    prompt_tokens = forms.FloatField(label="Tokens of a prompt", initial=1000)
    output_tokens = forms.FloatField(label="Tokens of an answer", initial=200)
    cached_percent = forms.FloatField(
        label="Prompts found in the cache, in percent",
        required=False,
        min_value=0,
        max_value=99,
        help_text="Of their tokens: what requests begin with in common. Empty: 0.",
    )
    ttft_p95_s = forms.FloatField(
        label="First token within, in seconds",
        required=False,
        help_text="For 95 of 100 requests. Empty: any.",
    )
    tpot_p95_s = forms.FloatField(
        label="Each other token within, in seconds",
        required=False,
        help_text="Such as 0.05 for 20 tokens a second. Empty: any.",
    )
    quantizations = forms.MultipleChoiceField(
        label="May also be quantised to",
        required=False,
        choices=[(one, one) for one in _ONLINE],
        widget=forms.CheckboxSelectMultiple,
        help_text="While it is loaded. It may always stay as the checkpoint is.",
    )

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        del self.fields["secret"]  # nothing is fetched for a quote

    def clean(self) -> dict[str, Any]:
        data = super().clean()
        needed = _OF.get(data.get("demand", ""), ())[:1]
        for name in needed:
            if data.get(name) is None and name not in self.errors:
                self.add_error(name, "This field is required.")
        return data

    def wished(self) -> dict[str, Any]:
        self.cleaned_data.setdefault("secret", "")
        return {name: value for name, value in super().wished().items() if name != "secret"}

    def body(self) -> dict[str, Any]:
        """Of a valid form."""
        data = self.cleaned_data
        stated = {name: data[name] for name in (*_OF[data["demand"]], *_SHAPE)}
        if data["cached_percent"]:
            stated["cached_share"] = data["cached_percent"] / 100
        slo = {name: data[name] for name in _SLO if data[name] is not None}
        return {
            **self.wished(),
            data["demand"]: {name: value for name, value in stated.items() if value is not None},
            "slo": slo,
            "quantizations": data["quantizations"],
        }

    def field_of(self, field: str) -> str | None:
        """The form's for one of the body's (`load.prompt_tokens`); None: none of them."""
        name = field.rpartition(".")[2]
        name = "cached_percent" if name == "cached_share" else name
        return name if name in self.fields else None


def asked(quote: Quote) -> dict[str, Any]:
    """What the form begins with, to ask again for something a little different."""
    body = quote.body
    kind = JOB if JOB in body else LOAD
    stated = body[kind]
    share = stated.get("cached_share")
    return {
        **model_of(quote),
        **{name: stated.get(name) for name in (*_OF[kind], *_SHAPE)},
        **(body.get("slo") or {}),
        "demand": kind,
        "cached_percent": None if share is None else round(100 * share, 2),
        "quantizations": body.get("quantizations") or [],
    }


def model_of(quote: Quote) -> dict[str, str]:
    """Source, model and revision as the forms have them."""
    return place_of(quote.source, quote.model, quote.revision)


def place_of(source: str, model: str, revision: str) -> dict[str, str]:
    if source == "upload":
        return {"source": model, "model": "", "revision": ""}
    named = source if source in ("mirror", "s3") else ""  # the name says which of the others
    return {"source": named, "model": model, "revision": revision}
