"""Form parameters, checked against the typed dictionaries that ship in Stripe's own package.

They are generated from Stripe's specification, so that a parameter which they do not know, lack
or have with another type is one that Stripe itself refuses.
"""

import re
import sys
import types
import typing
from typing import Any, ForwardRef, Literal, Union, get_args, get_origin
from urllib.parse import parse_qsl

import typing_extensions
from stripe import RequestOptions
from stripe._stripe_object import UntypedStripeObject

from tests.stripe_server.problems import Problem, invalid

_KEY = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_INTEGER = re.compile(r"-?[0-9]+")
_OPTIONS = frozenset(RequestOptions.__annotations__)
_WRAPPERS = (typing_extensions.NotRequired, typing_extensions.Required)
_UNIONS = (Union, types.UnionType)


def decode(form: str) -> dict[str, Any]:
    """`a[b][0]=1` as nested dictionaries; values stay text."""
    tree: dict[str, Any] = {}
    for name, value in parse_qsl(form, keep_blank_values=True, strict_parsing=bool(form)):
        match = _KEY.fullmatch(name)
        if match is None:
            raise invalid(f"Invalid parameter name: {name}", param=name)
        path = [match[1], *re.findall(r"\[([^\[\]]*)\]", match[2])]
        here = tree
        for step in path[:-1]:
            here = here.setdefault(step, {})
        if not isinstance(here, dict) or path[-1] in here:
            raise invalid(f"Invalid parameter: {name}", param=name)
        here[path[-1]] = value
    return tree


def check(given: dict[str, Any], wanted: Any, path: str = "") -> dict[str, Any]:
    """The parameters with their types. Raises Problem as Stripe does, naming the parameter."""
    known = {name: kind for name, kind in wanted.__annotations__.items() if name not in _OPTIONS}
    typed = {}
    for name, value in given.items():
        where = _below(path, name)
        if name not in known:
            message = f"Received unknown parameter: {where}"
            raise invalid(message, code="parameter_unknown", param=where)
        typed[name] = _value(value, known[name], sys.modules[wanted.__module__], where)
    for name in sorted(wanted.__required_keys__ - _OPTIONS - given.keys()):
        where = _below(path, name)
        message = f"Missing required param: {where}."
        raise invalid(message, code="parameter_missing", param=where)
    return typed


def _below(path: str, name: str) -> str:
    return f"{path}[{name}]" if path else name


def _value(value: Any, kind: Any, module: types.ModuleType, path: str) -> Any:
    if isinstance(kind, str):
        kind = ForwardRef(kind)
    if isinstance(kind, ForwardRef):
        names = vars(typing) | vars(module)
        kind = eval(kind.__forward_arg__, names)
        return _value(value, kind, module, path)
    origin = get_origin(kind)
    if origin in _WRAPPERS:
        return _value(value, get_args(kind)[0], module, path)
    if origin in _UNIONS:
        return _any_of(value, get_args(kind), module, path)
    if origin in (Literal, typing_extensions.Literal):
        if value in get_args(kind):
            return value
        raise _wrong(path, f"must be one of {', '.join(map(str, get_args(kind)))}")
    if typing_extensions.is_typeddict(kind):
        if not isinstance(value, dict):
            raise _wrong(path, "expected an object")
        return check(value, kind, path)
    if origin in (list, dict):
        return _container(value, origin, get_args(kind)[-1], module, path)
    return _scalar(value, kind, path)


def _any_of(value: Any, kinds: tuple[Any, ...], module: types.ModuleType, path: str) -> Any:
    """Closed words come first in these unions, and the most telling complaint is an inner one."""
    problems = []
    for kind in kinds:
        if get_origin(kind) is UntypedStripeObject:
            continue
        try:
            return _value(value, kind, module, path)
        except Problem as problem:
            problems.append(problem)
    raise max(problems, key=lambda problem: len(problem.param))


def _container(
    value: Any, origin: type, inner: Any, module: types.ModuleType, path: str
) -> list[Any] | dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(path, "expected an array" if origin is list else "expected an object")
    checked = {
        name: _value(each, inner, module, _below(path, name)) for name, each in value.items()
    }
    if origin is dict:
        return checked
    if sorted(value) != sorted(str(index) for index in range(len(value))):
        raise _wrong(path, "expected an array")
    return [checked[str(index)] for index in range(len(value))]


def _scalar(value: Any, kind: Any, path: str) -> Any:
    if kind in (type(None), None):
        raise _wrong(path, "must be left out")
    if not isinstance(value, str):
        raise _wrong(path, "expected one value")
    if kind is int:
        if not _INTEGER.fullmatch(value):
            raise invalid(f"Invalid integer: {value}", code="parameter_invalid_integer", param=path)
        return int(value)
    if kind is bool:
        if value not in ("true", "false"):
            raise _wrong(path, "must be true or false")
        return value == "true"
    if kind is float:
        return float(value)
    if kind is str or kind is Any:
        return value
    raise TypeError(f"no check for {kind!r} at {path}")


def _wrong(path: str, why: str) -> Problem:
    return invalid(f"Invalid {path}: {why}", param=path)
