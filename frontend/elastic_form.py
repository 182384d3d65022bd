"""How an endpoint follows its traffic and the clock, as people fill it in."""

from typing import Any

from django import forms

from controlplane.endpoints import spec
from controlplane.endpoints.models import Endpoint
from controlplane.scaling.policy import KeepAlive

_PLAIN = {"autocapitalize": "none", "spellcheck": "false"}


class ElasticForm(forms.Form):
    """Bounds of replicas and of what may wait warm; `elastic` gives what the house understands."""

    min_replicas = forms.IntegerField(
        label="Replicas at least",
        initial=1,
        min_value=0,
        help_text="0: it sleeps when idle and costs nothing; the first request wakes it.",
    )
    max_replicas = forms.IntegerField(label="Replicas at most", initial=1, min_value=1)
    scale_to_zero_timeout_s = forms.IntegerField(
        label="Seconds idle until it scales to zero", initial=3600, min_value=spec.IDLE_S.start
    )
    ttft_target_s = forms.FloatField(
        label="Seconds until a first token",
        required=False,
        initial=1.0,
        min_value=spec.TTFT_S[0],
        max_value=spec.TTFT_S[1],
        help_text="Prompts that would take longer ask for another replica. Empty: 1.",
    )
    keep_alive = forms.ChoiceField(
        label="Kept warm",
        required=False,
        choices=[
            (KeepAlive.PREDICTABLE, "for just these seconds"),
            (KeepAlive.AUTOMATIC, "as its own gaps teach it"),
        ],
        help_text="By its gaps it costs at most three times what knowing them would have.",
    )
    schedules = forms.CharField(
        required=False,
        help_text=(
            "One a line: cron, time zone, seconds, replicas, such as "
            "<code>0 8 * * mon-fri Europe/Berlin 36000 2</code>."
        ),
        widget=forms.Textarea(attrs={"rows": 2, **_PLAIN}),
    )
    cap_seconds = forms.IntegerField(
        label="Seconds a day that it may wait warm",
        required=False,
        min_value=0,
        help_text="Above the least number of replicas. Empty: no bound.",
    )
    cap_euro = forms.DecimalField(
        label="Euro a day for that", required=False, min_value=0, decimal_places=2
    )
    cap_time_zone = forms.CharField(
        label="A day is one of",
        required=False,
        max_length=64,
        help_text="A time zone such as <code>Europe/Berlin</code>. Empty: UTC.",
        widget=forms.TextInput(attrs=_PLAIN),
    )

    def clean_schedules(self) -> list[dict[str, Any]]:
        lines = self.cleaned_data["schedules"].splitlines()
        return [_schedule(line) for line in lines if line.strip()]

    def elastic(self) -> dict[str, Any]:
        """Of a valid form: what `services.update` and the spec take."""
        data = self.cleaned_data
        seconds, euro = data["cap_seconds"], data["cap_euro"]
        cap = {"seconds": seconds, "euro": euro, "time_zone": data["cap_time_zone"] or "UTC"}
        return {
            "min_replicas": data["min_replicas"],
            "max_replicas": data["max_replicas"],
            "scale_to_zero_timeout_s": data["scale_to_zero_timeout_s"],
            "ttft_target_s": data["ttft_target_s"] or 1.0,
            "keep_alive": data["keep_alive"] or KeepAlive.PREDICTABLE.value,
            "schedules": data["schedules"],
            "keep_warm_cap": None if seconds is None and euro is None else cap,
        }


def kept(endpoint: Endpoint) -> dict[str, Any]:
    """What the form begins with."""
    cap = endpoint.keep_warm_cap or {}
    return {
        "min_replicas": endpoint.min_replicas,
        "max_replicas": endpoint.max_replicas,
        "scale_to_zero_timeout_s": endpoint.scale_to_zero_timeout_s,
        "ttft_target_s": endpoint.ttft_target_s,
        "keep_alive": endpoint.keep_alive,
        "schedules": "\n".join(
            f"{one['cron']} {one['time_zone']} {one['duration_s']} {one['replicas']}"
            for one in endpoint.schedules
        ),
        "cap_seconds": cap.get("seconds"),
        "cap_euro": cap.get("euro"),
        "cap_time_zone": cap.get("time_zone", ""),
    }


def _schedule(line: str) -> dict[str, Any]:
    words = line.split()
    if len(words) != 8 or not words[6].isdecimal() or not words[7].isdecimal():
        raise forms.ValidationError(
            "expected five cron fields, a time zone, seconds and replicas, not %(line)s",
            params={"line": repr(line.strip()[:80])},
        )
    return {
        "cron": " ".join(words[:5]),
        "time_zone": words[5],
        "duration_s": int(words[6]),
        "replicas": int(words[7]),
    }


class BurstForm(forms.Form):
    """ "20 workers in 3 minutes"."""

    workers = forms.IntegerField(min_value=1)
    in_minutes = forms.IntegerField(label="In so many minutes", min_value=0, initial=3)
    for_minutes = forms.IntegerField(label="For so many minutes", min_value=1, initial=60)
    sequences = forms.IntegerField(label="Requests of one at a time", min_value=1, initial=1)
