"""The wish for an endpoint as people fill it in; what may be wished for is endpoints.spec's."""

import json
from collections.abc import Container
from typing import Any

from django import forms

from billing.models import Account
from controlplane.endpoints.engine_versions import Status
from controlplane.endpoints.models import EngineVersion
from controlplane.endpoints.offers import Offer
from controlplane.endpoints.services import EndpointSpec
from controlplane.fleet.engines.rules import OneOf
from controlplane.fleet.engines.vllm import ALLOWED
from frontend.elastic_form import ElasticForm
from frontend.forms import pairs
from frontend.image_form import ImageForm
from frontend.scale_views import QueueForm
from frontend.source_form import SourceForm
from frontend.templatetags.console import money, size

_UNSET = ("", "as the engine decides")
# Engine settings that have a field of their own; the rest goes into the free list.
COMMON = (
    "max_model_len",
    "max_num_seqs",
    "gpu_memory_utilization",
    "kv_cache_dtype",
    "quantization",
    "enable_prefix_caching",
    "tool_call_parser",
)
# What decides whether it fits and what it costs: a page asks anew when one of these changes.
ASKED = (
    *("source", "model", "revision", "engine", "engine_version", "image_reference"),
    *("device_kind", "device_count", "device_share", "node_count"),
    *("min_replicas", "max_replicas"),
    *COMMON,
    *("more", "adapters"),
)


def _choices(name: str) -> list[tuple[str, str]]:
    rule = ALLOWED[name]
    assert isinstance(rule, OneOf)
    return [_UNSET, *((one, one) for one in rule.choices)]


def _versions() -> list[tuple[str, str]]:
    """Those of vLLM that may be chosen."""
    rows = EngineVersion.objects.filter(engine="vllm").exclude(status=Status.BLOCKED)
    return [
        (row.version, row.version + (" (deprecated)" if row.status == Status.DEPRECATED else ""))
        for row in rows
    ]


class EndpointForm(ImageForm, SourceForm, ElasticForm, QueueForm):
    quote_id = forms.CharField(max_length=40, required=False, widget=forms.HiddenInput)
    name = forms.CharField(
        max_length=63,
        help_text="Clients give it as <code>model</code>: a-z, 0-9 and inner dashes.",
        widget=forms.TextInput(attrs={"autocapitalize": "none", "spellcheck": "false"}),
    )
    device_kind = forms.ChoiceField(label="Devices")
    device_count = forms.IntegerField(
        label="Devices for a replica", initial=1, min_value=1, max_value=64
    )
    device_share = forms.IntegerField(
        label="Thousandths of its device",
        initial=1000,
        min_value=1,
        max_value=1000,
        required=False,
        help_text="Below 1000 it shares one with others of your organization, and pays its part, "
        "where the pool allows it.",
    )
    node_count = forms.IntegerField(
        label="Nodes for a replica",
        initial=1,
        min_value=1,
        required=False,
        help_text="Above 1 it takes the devices on each of them.",
    )
    max_model_len = forms.IntegerField(
        label="Context length, in tokens", required=False, help_text="<code>max_model_len</code>"
    )
    max_num_seqs = forms.IntegerField(
        label="Requests at once", required=False, help_text="<code>max_num_seqs</code>"
    )
    gpu_memory_utilization = forms.FloatField(
        label="Share of device memory",
        required=False,
        help_text="<code>gpu_memory_utilization</code>, 0.05 to 0.99",
    )
    kv_cache_dtype = forms.ChoiceField(
        label="KV cache", required=False, choices=_choices("kv_cache_dtype")
    )
    quantization = forms.ChoiceField(required=False, choices=_choices("quantization"))
    enable_prefix_caching = forms.ChoiceField(
        label="Prefix caching",
        required=False,
        choices=[_UNSET, ("true", "on"), ("false", "off")],
    )
    tool_call_parser = forms.CharField(
        label="Tool call parser",
        required=False,
        max_length=64,
        help_text="Such as <code>hermes</code>; switches tool calls on.",
        widget=forms.TextInput(attrs={"autocapitalize": "none", "spellcheck": "false"}),
    )
    capabilities = forms.ChoiceField(
        label="Must prove before it is ready",
        required=False,
        choices=[
            ("", "what the model's recipe promises"),
            ("tools,json_schema", "tool calls and JSON schema"),
            ("tools", "tool calls"),
            ("json_schema", "JSON schema"),
            ("none", "nothing"),
        ],
        help_text="By real requests, of each replica.",
    )
    engine_version = forms.ChoiceField(
        label="Engine version", required=False, choices=[("", "as nodes have it")]
    )
    more = forms.CharField(
        label="More engine arguments",
        required=False,
        help_text="One <code>flag=value</code> a line, by vLLM's own names.",
        widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false"}),
    )
    adapters = forms.CharField(
        label="LoRA adapters",
        required=False,
        help_text="One <code>name=path</code> a line; clients ask for <code>endpoint:name</code>.",
        widget=forms.Textarea(attrs={"rows": 2, "spellcheck": "false"}),
    )

    def __init__(
        self, *args: Any, offers: list[Offer], hours: dict[str, Any], account: Account, **more: Any
    ) -> None:
        super().__init__(*args, **more)
        kinds = self.fields["device_kind"]
        assert isinstance(kinds, forms.ChoiceField)
        kinds.choices = [
            (
                one.kind,
                f"{one.kind}, {size(one.memory_bytes)} each: {one.free} of {one.total} free, "
                f"{money(hours.get(one.kind), account.currency)} an hour each",
            )
            for one in offers
        ]

        for name in ASKED:
            self.fields[name].widget.attrs["data-asked"] = ""
        versions = self.fields["engine_version"]
        assert isinstance(versions, forms.ChoiceField)
        versions.choices = [("", "as nodes have it"), *_versions()]

    def clean_more(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for flag, value in pairs(self.cleaned_data["more"], "flag=value"):
            name = flag.removeprefix("--").replace("-", "_")
            by_field = name in COMMON and self.cleaned_data.get(name) not in (None, "")
            if name in found or by_field:
                raise forms.ValidationError(f"{name} is given twice")
            found[name] = _value(value)
        return found

    def clean_capabilities(self) -> list[str] | None:
        chosen = self.cleaned_data["capabilities"]
        return [one for one in chosen.split(",") if one != "none"] if chosen else None

    def clean_adapters(self) -> list[dict[str, str]]:
        found = pairs(self.cleaned_data["adapters"], "name=path")
        return [{"name": name, "path": path} for name, path in found]

    def arguments(self) -> dict[str, Any]:
        """Of a valid form: the engine's, from fields of their own and from the free list."""
        data = self.cleaned_data
        found: dict[str, Any] = {
            name: data[name] for name in COMMON if data[name] not in ("", None)
        }
        if "enable_prefix_caching" in found:
            found["enable_prefix_caching"] = data["enable_prefix_caching"] == "true"
        if "tool_call_parser" in found:
            found["enable_auto_tool_choice"] = True
        return {**found, **data["more"]}

    def spec(self) -> EndpointSpec:
        """Of a valid form; `endpoints.spec` judges it then."""
        data = self.cleaned_data
        return EndpointSpec(
            name=data["name"],
            **self.wished(),
            device_kind=data["device_kind"],
            device_count=data["device_count"],
            node_count=data["node_count"] or 1,
            device_share=data["device_share"] or 1000,
            **self.elastic(),
            queue_limit=data["queue_limit"],
            queue_s=data["queue_s"],
            engine=data["engine"] or "vllm",
            image=self.image(),
            engine_args=self.arguments(),
            engine_version=data["engine_version"],
            adapters=data["adapters"],
            capabilities=data["capabilities"],
            quote_id=data["quote_id"],
        )

    def blame(self, field: str, message: str) -> None:
        """Put a refusal of the house beside the field that it is about."""
        self.add_error(field_of(field, self.fields) or None, message)


def field_of(field: str, fields: Container[str]) -> str:
    """Which of a form's fields a refusal is about; empty: none of them."""
    name = "cap_seconds" if field == "keep_warm_cap" else field.removeprefix("engine_args.")
    if field.startswith("image"):
        name = f"image_{field.partition('.')[2] or 'reference'}"
    alike = (
        (name, field, "more", "engine_args") if field.startswith("engine_args") else (name, field)
    )
    return next((one for one in alike if one in fields), "")


class DraftForm(EndpointForm):
    """What of a wish decides whether it fits and what it costs; it has no name yet."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        for name in self.fields.keys() - set(ASKED):
            self.fields[name].required = False

    def spec(self) -> EndpointSpec:
        """Of a valid form."""
        data = self.cleaned_data
        return EndpointSpec(
            name="draft",
            **self.wished(),
            device_kind=data["device_kind"],
            device_count=data["device_count"],
            node_count=data["node_count"] or 1,
            device_share=data["device_share"] or 1000,
            min_replicas=data["min_replicas"],
            max_replicas=data["max_replicas"],
            engine=data["engine"] or "vllm",
            image=self.image(),
            engine_args=self.arguments(),
            engine_version=data["engine_version"],
            adapters=data["adapters"],
        )


def _value(text: str) -> bool | int | float | str:
    """`true`, `512` and `0.9` are what they look like; everything else is text."""
    try:
        found = json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except ValueError:
        return text
    return found if isinstance(found, bool | int | float) else text
