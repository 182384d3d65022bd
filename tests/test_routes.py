"""Every route through which something may change leads to `audit.record`, or says why it need not.

tests/test_verbs.py does each verb and looks at its event. Here each route of the API and of the
console is followed from its view to what it calls, so that none can change something past a verb.
"""

import dis
import inspect
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from django.urls import URLPattern, URLResolver, get_resolver

from compliance import audit

UNSAFE = {"post", "put", "patch", "delete"}
ROOMS = ("controlplane.", "billing.", "compliance.", "frontend.")
# Routes that may leave no event, by path: what they do instead.
SILENT = {
    "POST api/v1/stripe/webhook": "is only told that something happened; the worker asks and tells",
    "POST api/v1/payment-methods": "opens a page at Stripe; what is given there is told",
    "POST api/v1/run-usage/references": "looks: names may not stand in an address",
    "POST api/v1/run-usage/summary": "looks: names may not stand in an address",
    "POST switch": "the visitor's own choice of a project, kept in the session",
    "POST endpoints/fit": "computes: whether a model would fit",
    "POST endpoints/<str:id>/fit": "computes: whether a model would fit",
    "POST runs": "looks: names may not stand in an address",
}


def routes() -> Iterator[tuple[str, Any]]:
    def walk(patterns: list[Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for pattern in patterns:
            path = prefix + str(pattern.pattern).lstrip("^").rstrip("$").removesuffix("\\Z")
            if isinstance(pattern, URLResolver):
                yield from walk(pattern.url_patterns, path)
            elif isinstance(pattern, URLPattern):
                yield path, pattern.callback

    yield from walk(get_resolver().url_patterns, "")


def changing() -> Iterator[tuple[str, FunctionType, type | None]]:
    """(path and method, view, its class) of all that takes more than GET."""
    for path, callback in routes():
        if (kind := getattr(callback, "cls", None)) is not None:
            for method, name in getattr(callback, "actions", {}).items():
                if method in UNSAFE:
                    yield f"{method.upper()} {path}", _plain(getattr(kind, name)), kind
        elif "POST" in _constants(_plain(callback)):
            yield f"POST {path}", _plain(callback), None


def _plain(found: Callable[..., Any]) -> FunctionType:
    plain = inspect.unwrap(found)
    assert isinstance(plain, FunctionType), found
    return plain


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _constants(function: FunctionType) -> set[Any]:
    """Its own, and whether a decorator of Django's lets nothing but POST in."""
    found = {each for code in _codes(function.__code__) for each in code.co_consts if _text(each)}
    lines = inspect.getsource(function).partition("def ")[0]
    return found | ({"POST"} if "require_POST" in lines or "require_http" in lines else set())


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _called(function: FunctionType, kind: type | None) -> Iterator[Any]:
    """What it names: globals, attributes of modules and of classes, its own class's methods."""
    for code in _codes(function.__code__):
        holder: Any = None
        for step in dis.get_instructions(code):
            if step.opname == "LOAD_GLOBAL":
                holder = function.__globals__.get(step.argval)
                yield from _within(holder)
            elif step.opname in ("LOAD_FAST", "LOAD_FAST_BORROW"):
                holder = kind if step.argval == "self" else None
            elif step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                found = None
                if isinstance(holder, ModuleType | type):
                    found = getattr(holder, step.argval, None)
                yield found
                holder = found
            elif not step.opname.startswith(("PUSH_NULL", "PRECALL", "CACHE")):
                holder = None


def _within(value: Any) -> Iterator[Any]:
    """Itself, or what a table of functions holds."""
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple):
        for each in value:
            yield from _within(each)
    else:
        yield value


def tells(function: FunctionType, kind: type | None, seen: set[Any]) -> bool:
    """Whether `audit.record` can be reached from here, through the house's own functions."""
    for found in _called(function, kind):
        if found is audit.record:
            return True
        owner = kind
        if isinstance(found, type) and found.__module__.startswith(ROOMS):
            found, owner = found.__init__, found  # type: ignore[misc]
        try:
            plain = inspect.unwrap(found) if callable(found) else None
        except ValueError:
            continue
        if not isinstance(plain, FunctionType) or not plain.__module__.startswith(ROOMS):
            continue
        if plain in seen:
            continue
        seen.add(plain)
        if tells(plain, owner, seen):
            return True
    return False


def test_every_route_that_changes_something_tells() -> None:
    found = {route: tells(view, kind, set()) for route, view, kind in changing()}
    assert len(found) > 100
    silent = {route for route, told in found.items() if not told}
    assert silent == set(SILENT), "let these tell, or say why they need not"


def test_a_view_that_tells_nothing_is_seen() -> None:
    def view(request: Any) -> int:
        return len(request)

    assert not tells(_plain(view), None, set())
