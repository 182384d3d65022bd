"""The primary key that every model of the house uses."""

from functools import partial
from typing import TYPE_CHECKING, Any

from django.db import models

from compliance import ids

if TYPE_CHECKING:  # generic for the type checker alone
    _Text = models.CharField[str, str]
else:
    _Text = models.CharField


class IdField(_Text):
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
