"""The printable name of what a price is for. Pure.

A meter and a device kind are the SKU: a price's are never edited, and no table could map them to
other names. Prices do not depend on the region, so neither does the SKU.
"""

from urllib.parse import quote

_PREFIX = {
    "device_seconds": "serving-hour",
    "warm_seconds": "warm-hour",
    "asleep_seconds": "asleep-hour",
    "input_tokens": "input-mtok",
    "cached_tokens": "cached-mtok",
    "output_tokens": "output-mtok",
}


def code(meter: str, device_kind: str = "") -> str:
    """`serving-hour/nvidia-h200`; a price of every kind is `serving-hour/*`. Two things never
    have the same. Raises KeyError for what is no meter."""
    return f"{_PREFIX[meter]}/{quote(device_kind, safe='') or '*'}"
