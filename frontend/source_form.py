"""Where a model comes from, as people fill it in: one of their uploads among the sources."""

from collections.abc import Iterable
from typing import Any

from django import forms

from controlplane.endpoints.models import Upload
from controlplane.fleet.wire import SourceKind

_PLAIN = {"autocapitalize": "none", "spellcheck": "false"}
_PATH = ", or an absolute path on your own nodes"


class SourceForm(forms.Form):
    """`wished` gives what the house understands. `uploads`: those that may be chosen."""

    on_nodes = True  # whether a path on the nodes is a source

    source = forms.ChoiceField(required=False)
    secret = forms.CharField(
        max_length=63,
        required=False,
        help_text="The name of a secret that opens the source. Empty: the project's default.",
        widget=forms.TextInput(attrs=_PLAIN),
    )
    model = forms.CharField(max_length=300, required=False, widget=forms.TextInput(attrs=_PLAIN))
    revision = forms.CharField(
        max_length=64,
        required=False,
        help_text="A commit pins what is served. Empty: the hub's default branch.",
        widget=forms.TextInput(attrs=_PLAIN),
    )

    def __init__(self, *args: Any, uploads: Iterable[Upload], **more: Any) -> None:
        super().__init__(*args, **more)
        source = self.fields["source"]
        assert isinstance(source, forms.ChoiceField)
        source.choices = [
            ("", "the hub, or a path on your own nodes" if self.on_nodes else "the hub"),
            (SourceKind.MIRROR.value, "the operator's mirror"),
            (SourceKind.S3.value, "S3"),
            *((one.id, f"your upload {one.name} ({one.id[-6:]})") for one in uploads),
        ]
        self.fields["model"].help_text = (
            "A hub id such as <code>org/name</code>, or <code>s3://bucket/folder</code>"
            f"{_PATH if self.on_nodes else ''}. Of an upload: empty."
        )

    @property
    def brings_its_own(self) -> bool:
        """Whether it may do without a model."""
        return False

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or self.cleaned_data
        chosen, model = data.get("source", ""), data.get("model", "")
        if self._uploaded(chosen):
            if model not in ("", chosen):
                self.add_error("model", "An upload is the model: leave this empty.")
        elif not (model or self.brings_its_own) and "model" not in self.errors:
            self.add_error("model", "This field is required.")
        return data

    def wished(self) -> dict[str, Any]:
        """Of a valid form: source, model, revision and secret."""
        data = self.cleaned_data
        found = {name: data[name] for name in ("source", "model", "revision", "secret")}
        if self._uploaded(data["source"]):
            found |= {"source": SourceKind.UPLOAD.value, "model": data["source"]}
        return found

    def _uploaded(self, source: str) -> bool:
        return source.startswith("upl_")
