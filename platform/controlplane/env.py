"""Readers for settings in the environment: one place that knows how a value is spelled.

Each reader takes NAME from the environment, or the content of the file that NAME_FILE names
(for secrets), or the default; without a default a missing value stops the process with its name.
"""

import os
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

_MISSING = "\0missing"


def text(name: str, default: str = _MISSING) -> str:
    """The value of NAME, else the stripped content of the file in NAME_FILE, else `default`."""
    if value := os.environ.get(name):
        return value
    if path := os.environ.get(f"{name}_FILE"):
        try:
            return Path(path).read_text().strip()
        except OSError as error:
            raise ImproperlyConfigured(f"{name}_FILE={path}: {error.strerror}") from error
    if default == _MISSING:
        raise ImproperlyConfigured(f"set {name} or {name}_FILE")
    return default


def flag(name: str, *, default: bool) -> bool:
    value = os.environ.get(name, "").lower()
    if value in ("", "1", "true", "yes", "on"):
        return bool(value) or default
    if value in ("0", "false", "no", "off"):
        return False
    raise ImproperlyConfigured(f"{name}={value!r}: expected true or false")


def integer(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    try:
        return int(value) if value else default
    except ValueError:
        raise ImproperlyConfigured(f"{name}={value!r}: expected a whole number") from None


def seconds(name: str, default: float) -> float:
    value = os.environ.get(name, "")
    try:
        return float(value) if value else default
    except ValueError:
        raise ImproperlyConfigured(f"{name}={value!r}: expected seconds") from None


def words(name: str, default: str = "") -> list[str]:
    """A comma-separated list."""
    return [word.strip() for word in os.environ.get(name, default).split(",") if word.strip()]


def secrets(name: str) -> list[str]:
    """A comma-separated list that NAME_FILE may hold."""
    return [word.strip() for word in text(name, "").split(",") if word.strip()]


def keys(name: str) -> dict[str, str]:
    """ID=KEY pairs, comma-separated, the newest first; a secret, so NAME_FILE may hold them."""
    pairs = [word.strip().partition("=") for word in text(name, "").split(",") if word.strip()]
    if any(not id or not key for id, _, key in pairs):
        raise ImproperlyConfigured(f"{name}: expected ID=KEY, and more after commas")
    return {id: key for id, _, key in pairs}


def database(url: str) -> dict[str, object]:
    """Django's DATABASES entry for a postgresql:// URL; `?host=/dir` selects a socket directory."""
    parts = urlsplit(url)
    if parts.scheme not in ("postgresql", "postgres"):
        raise ImproperlyConfigured(f"DATABASE_URL: expected postgresql://, not {parts.scheme}://")
    query = dict(parse_qsl(parts.query))
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": query.pop("host", parts.hostname or ""),
        "PORT": str(parts.port or query.pop("port", "")),
        "CONN_MAX_AGE": 0,
        # The pool looks before it lends: about 35 µs a request, and none fails when PostgreSQL has
        # restarted under its idle connections.
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {**query},
    }
