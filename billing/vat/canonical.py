"""A dataclass as canonical JSON (RFC 8785), to be kept and hashed as evidence.

Decimal becomes its text (never a float), dates and times ISO 8601, a span its
whole seconds, an enumeration its value.
"""

import dataclasses
import hashlib
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any

import rfc8785


def plain(value: Any) -> Any:
    """The value as JSON has it. TypeError names what JSON cannot carry exactly."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise TypeError(f"a time without a zone is no evidence: {value!r}")
        return value.isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta) and not value % timedelta(seconds=1):
        return value // timedelta(seconds=1)
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    raise TypeError(f"{type(value).__name__} is not exact in JSON: {value!r}")


def canonical(value: Any) -> bytes:
    return rfc8785.dumps(plain(value))


def digest(value: Any) -> str:
    """SHA-256 over the canonical JSON, in hexadecimal digits."""
    return hashlib.sha256(canonical(value)).hexdigest()
