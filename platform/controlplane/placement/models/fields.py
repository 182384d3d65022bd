"""Reading of a config.json: what is not there is refused by its name."""

from collections.abc import Mapping
from typing import Any

from controlplane.placement.refusals import Refusal


class Fields:
    """One level of a configuration. The first name that is there and not null counts."""

    def __init__(self, stated: Mapping[str, Any]) -> None:
        self.stated = stated

    def get(self, *names: str) -> Any:
        for name in names:
            if (value := self.stated.get(name)) is not None:
                return value
        return None

    def number(self, *names: str, default: int | None = None) -> int:
        value = self.get(*names)
        if value is None:
            if default is None:
                raise Refusal(f"{names[0]} in config.json")
            return default
        if isinstance(value, list | tuple) and len(set(value)) == 1:
            value = value[0]  # the same for height and width
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            raise Refusal(f"a whole number as {names[0]} in config.json, not {value!r}")
        return int(value)

    def truth(self, *names: str, default: bool = False) -> bool:
        value = self.get(*names)
        return default if value is None else bool(value)

    def within(self, *names: str) -> "Fields | None":
        value = self.get(*names)
        return Fields(value) if isinstance(value, Mapping) else None
