"""Rules for single settings of an engine, and the check of a tenant's against an allow-list. Pure.

What is not in an engine's list does not reach it. The names that people are likely to try and may
not have are listed with the reason.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from controlplane.fleet.engines.base import Refused, Value


@dataclass(frozen=True)
class Whole:
    low: int
    high: int

    def problem(self, value: object) -> str:
        if isinstance(value, bool) or not isinstance(value, int):
            return "expected a whole number"
        return "" if self.low <= value <= self.high else f"expected {self.low} to {self.high}"


@dataclass(frozen=True)
class Fraction:
    low: float
    high: float

    def problem(self, value: object) -> str:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "expected a number"
        return "" if self.low <= value <= self.high else f"expected {self.low} to {self.high}"


@dataclass(frozen=True)
class Switch:
    def problem(self, value: object) -> str:
        return "" if isinstance(value, bool) else "expected true or false"


@dataclass(frozen=True)
class OneOf:
    choices: tuple[str, ...]

    def problem(self, value: object) -> str:
        return "" if value in self.choices else "expected one of " + ", ".join(self.choices)


@dataclass(frozen=True)
class OneNumberOf:
    choices: tuple[int, ...]

    def problem(self, value: object) -> str:
        fits = isinstance(value, int) and not isinstance(value, bool) and value in self.choices
        return "" if fits else "expected one of " + ", ".join(map(str, self.choices))


@dataclass(frozen=True)
class Name:
    """A word that selects one of the engine's registered parsers: never a path."""

    def problem(self, value: object) -> str:
        fits = isinstance(value, str) and value.replace("_", "").replace("-", "").isalnum()
        return "" if fits and len(str(value)) <= 64 else "expected a name such as `hermes`"


@dataclass(frozen=True)
class JsonObject:
    """Text that holds a JSON object with these keys at most."""

    keys: tuple[str, ...]

    def problem(self, value: object) -> str:
        expected = "expected a JSON object as text, of " + ", ".join(self.keys)
        if not isinstance(value, str) or len(value) > 2000:
            return expected
        try:
            found = json.loads(value)
        except ValueError:
            return expected
        plain = isinstance(found, dict) and found.keys() <= set(self.keys)
        return "" if plain else expected


Rule = Whole | Fraction | Switch | OneOf | OneNumberOf | Name | JsonObject


def checked(
    args: Mapping[str, object], allowed: Mapping[str, Rule], forbidden: Mapping[str, str]
) -> dict[str, Value]:
    """The settings, names in snake_case. Dashes in names count as underscores. Raises Refused."""
    found: dict[str, Value] = {}
    for given, value in args.items():
        name = given.removeprefix("--").replace("-", "_")
        if name in forbidden:
            raise Refused(name, f"{name} cannot be set: {forbidden[name]}", "engine_arg_forbidden")
        if name not in allowed:
            raise Refused(name, _unknown(name, allowed), "engine_arg_unknown")
        if name in found:
            raise Refused(name, f"{name} is given twice")
        if problem := allowed[name].problem(value):
            raise Refused(name, f"{name}: {problem}, not {repr(value)[:80]}")
        assert value is None or isinstance(value, bool | int | float | str)
        found[name] = value
    return found


def _unknown(name: str, allowed: Mapping[str, Rule]) -> str:
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.0)
    shown = "".join(mark if mark.isprintable() else "?" for mark in name[:64])
    return f"{shown} is not an engine setting that can be chosen; the nearest is {near[0]}"
