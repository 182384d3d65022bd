"""An image as people fill it in; what may be asked for is endpoints.images's."""

from typing import Any

from django import forms

from controlplane.endpoints import images
from controlplane.fleet import engines
from frontend.forms import pairs

_PLAIN = {"autocapitalize": "none", "spellcheck": "false"}
_AREA = {"rows": 3, "spellcheck": "false"}


class ImageForm(forms.Form):
    """`image` gives what the house understands; without a reference there is none."""

    engine = forms.ChoiceField(
        required=False,
        choices=[
            ("custom", "an image of your own") if name == images.CUSTOM else (name, name)
            for name in engines.ENGINES
        ],
        help_text="An image of your own is any that serves HTTP on a port.",
    )
    image_reference = forms.CharField(
        label="Image",
        required=False,
        max_length=images.MAX_REFERENCE,
        help_text="<code>registry/repository:tag</code> or <code>…@sha256:…</code>. A tag is "
        "served by the digest that served first.",
        widget=forms.TextInput(attrs=_PLAIN),
    )
    image_registry_secret = forms.CharField(
        label="Secret of the registry",
        required=False,
        max_length=63,
        help_text="Of kind <code>registry</code>, by name. Empty: the project's default.",
        widget=forms.TextInput(attrs=_PLAIN),
    )
    image_command = forms.CharField(
        label="Command",
        required=False,
        help_text="One word a line, in place of the image's own. Empty: the image's.",
        widget=forms.Textarea(attrs=_AREA),
    )
    image_env = forms.CharField(
        label="Environment",
        required=False,
        help_text="One <code>NAME=value</code> a line.",
        widget=forms.Textarea(attrs=_AREA),
    )
    image_secrets = forms.CharField(
        label="Environment from secrets",
        required=False,
        help_text="One <code>NAME=secret</code> a line, of kind <code>env</code>.",
        widget=forms.Textarea(attrs={**_AREA, "rows": 2}),
    )
    image_port = forms.IntegerField(label="Port", required=False, initial=8000)
    image_readiness_path = forms.CharField(
        label="Readiness path",
        required=False,
        initial="/health",
        help_text="Answers 200 once it serves.",
        widget=forms.TextInput(attrs=_PLAIN),
    )
    image_openai = forms.ChoiceField(
        label="What it speaks",
        required=False,
        choices=[("true", "OpenAI's API"), ("false", "an API of its own")],
        help_text="An API of its own is called below <code>/e/NAME/</code>.",
    )

    def clean_image_env(self) -> dict[str, str]:
        return dict(pairs(self.cleaned_data["image_env"], "NAME=value"))

    def clean_image_secrets(self) -> dict[str, str]:
        return dict(pairs(self.cleaned_data["image_secrets"], "NAME=secret"))

    @property
    def brings_its_own(self) -> bool:
        """Whether it may do without a model."""
        return self.data.get("engine") == images.CUSTOM

    def image(self) -> dict[str, Any] | None:
        """Of a valid form."""
        data = self.cleaned_data
        if not data["image_reference"]:
            return None
        given: dict[str, Any] = {
            "reference": data["image_reference"],
            "env": data["image_env"],
            "secrets": data["image_secrets"],
            "registry_secret": data["image_registry_secret"],
        }
        if data["engine"] == images.CUSTOM:
            given |= {
                "command": [one.strip() for one in data["image_command"].splitlines() if one],
                "port": data["image_port"] or 8000,
                "readiness_path": data["image_readiness_path"] or "/health",
                "openai": data["image_openai"] != "false",
            }
        return given
