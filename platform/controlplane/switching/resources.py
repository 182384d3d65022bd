"""One resource: its rows as JSONL, and the schema that says what is in them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, cast

import msgspec
from django.contrib.postgres.fields import ArrayField
from django.db import models

from compliance.stamps import stamp
from controlplane.tenancy.models import Organization

Mask = Callable[[str], str]
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_WHOLE = {"type": "string", "pattern": "^-?[0-9]+$"}  # of 64 bits: JSON's numbers are shorter


@dataclass(frozen=True)
class Resource:
    """`fields`: as `values_list` takes them; `personal`: those that a pseudonymised bundle masks.

    `left`: why nobody takes it over elsewhere, in words; empty: `importers` does.
    """

    name: str
    title: str
    model: type[models.Model]
    of: Callable[[Organization], "models.QuerySet[Any]"]
    fields: tuple[str, ...]
    personal: tuple[str, ...] = ()
    left: str = ""

    @property
    def path(self) -> str:
        return f"documents/configuration/{self.name}.jsonl"

    @property
    def schema_path(self) -> str:
        return f"documents/configuration/schemas/{self.name}.json"

    def keys(self) -> list[str]:
        return [name.replace("__", "_") for name in self.fields]

    def rows(self, organization: Organization, mask: Mask | None) -> Iterator[dict[str, Any]]:
        """By id, read as they are asked for."""
        hidden = set(self.personal) if mask else set()
        whole = [isinstance(self._field(name), models.BigIntegerField) for name in self.fields]
        found = self.of(organization).order_by("pk").values_list(*self.fields)
        for row in found.iterator(chunk_size=1000):
            shown = map(_plain, row, whole)
            yield {
                key: _masked(value, mask) if mask and name in hidden else value
                for key, name, value in zip(self.keys(), self.fields, shown, strict=True)
            }

    def schema(self) -> dict[str, Any]:
        """JSON Schema of a line, of the model's own columns."""
        return {
            "$schema": _DIALECT,
            "title": self.name,
            "description": self.title,
            "type": "object",
            "properties": {
                key: _typed(self._field(name), name in self.personal)
                for key, name in zip(self.keys(), self.fields, strict=True)
            },
            "required": self.keys(),
            "additionalProperties": False,
        }

    def _field(self, name: str) -> "models.Field[Any, Any]":
        model: type[models.Model] = self.model
        *through, last = name.split("__")
        for one in through:
            model = cast(type[models.Model], model._meta.get_field(one).related_model)
        return cast("models.Field[Any, Any]", model._meta.get_field(last))


def line(row: dict[str, Any]) -> bytes:
    """Canonical enough to be compared: sorted keys, no spaces, UTF-8."""
    return msgspec.json.encode(row, order="sorted") + b"\n"


def _plain(value: Any, whole: bool) -> Any:
    """As JSON has it: UTC times, exact numbers and (`whole`) those of 64 bits as text."""
    if whole and value is not None:
        return str(value)
    if isinstance(value, datetime):
        return stamp(value)
    if isinstance(value, date):
        return value.isoformat()
    return format(value, "f") if isinstance(value, Decimal) else value


def _masked(value: Any, mask: Mask | None) -> Any:
    if mask is None or value in (None, "", [], {}):
        return value
    return mask(value if isinstance(value, str) else msgspec.json.encode(value).decode())


def _typed(field: "models.Field[Any, Any]", personal: bool) -> dict[str, Any]:
    said = _type(field)
    if field.null and "type" in said:
        said["type"] = [said["type"], "null"]
    if personal:
        said["description"] = "a pseudonym, where the bundle's profile is pseudonymised"
        if said.get("type") not in ("string", ["string", "null"]):
            return {"description": said["description"]}
    return said


def _type(field: "models.Field[Any, Any]") -> dict[str, Any]:
    if isinstance(field, ArrayField):
        return {"type": "array", "items": _type(field.base_field)}
    if isinstance(field, models.ForeignKey):
        return {"type": "string"}
    if isinstance(field, models.JSONField):
        return {}
    for kind, said in _TYPES.items():
        if isinstance(field, kind):
            return dict(said)
    return {"type": "string"}


# The first that fits: a DateTimeField is a DateField, too.
_TYPES: dict[type[Any], dict[str, Any]] = {
    models.DateTimeField: {"type": "string", "format": "date-time"},
    models.DateField: {"type": "string", "format": "date"},
    models.BooleanField: {"type": "boolean"},
    models.BigIntegerField: _WHOLE,
    models.IntegerField: {"type": "integer"},
    models.FloatField: {"type": "number"},
    models.DecimalField: {"type": "string", "pattern": "^-?[0-9]+(\\.[0-9]+)?$"},
}
