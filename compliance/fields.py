"""The primary key that every model of the house uses."""

from functools import partial
from typing import Any

from django.db import models

from compliance import ids


class IdField(models.CharField):  # type: ignore[type-arg]
    """A typed id (`compliance.ids`) that the application draws itself."""

    def __init__(self, prefix: str, **kwargs: Any) -> None:
        self.prefix = prefix
        kwargs.update(max_length=31, primary_key=True, editable=False)
        kwargs["default"] = partial(ids.new, prefix)
        super().__init__(**kwargs)

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        for key in ("max_length", "primary_key", "editable", "default"):
            kwargs.pop(key, None)
        return name, path, [self.prefix, *args], kwargs
