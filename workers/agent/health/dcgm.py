"""GPUs as NVIDIA's dcgm-exporter shows them, where the operator runs one on the node."""

import re
from collections.abc import Callable

import httpx

from controlplane.fleet.wire import Finding, Severity
from workers.agent.health.cards import Card

TIMEOUT_S = 5.0
_LINE = re.compile(r"^(DCGM_FI_DEV_\w+)\{(.*)\} (\S+)", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def _temperature(card: Card, value: int) -> None:
    card.temperature_c = value


def _uncorrected(card: Card, value: int) -> None:
    card.ecc_uncorrected = value


def _uncorrected_ever(card: Card, value: int) -> None:
    card.ecc_uncorrected_ever = value


def _rows(card: Card, value: int) -> None:
    card.rows_remapped = value


def _failed(card: Card, value: int) -> None:
    card.remap_failed = bool(value)


def _reasons(card: Card, value: int) -> None:
    card.slowed_by = value


def _xid(card: Card, value: int) -> None:
    card.xid = value


# Fields of DCGM by the names under which its exporter shows them.
_FIELDS: dict[str, Callable[[Card, int], None]] = {
    "DCGM_FI_DEV_GPU_TEMP": _temperature,
    "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL": _uncorrected,
    "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL": _uncorrected_ever,
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": _rows,
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": _failed,
    "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS": _reasons,
    "DCGM_FI_DEV_CLOCKS_EVENT_REASONS": _reasons,
    "DCGM_FI_DEV_XID_ERRORS": _xid,
}


def read(url: str) -> list[Card] | Finding:
    """The GPUs that the exporter at `url` shows, or that it does not answer. Blocks."""
    try:
        answer = httpx.get(url, timeout=TIMEOUT_S, trust_env=False)
        answer.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Finding(
            check="dcgm_exporter",
            severity=Severity.WARNING,
            text=f"{url} does not answer: {error or type(error).__name__}",
            cure="start dcgm-exporter, or take STOA_AGENT_DCGM_URL away",
        )
    return cards(answer.text)


def cards(text: str) -> list[Card]:
    """From the exporter's page, one for each GPU; a line that is none of ours is passed over."""
    found: dict[int, Card] = {}
    for name, labels, value in _LINE.findall(text):
        named = dict(_LABEL.findall(labels))
        put, gpu = _FIELDS.get(name), named.get("gpu", "")
        if put is None or not gpu.isdecimal() or "GPU_I_ID" in named:  # a MIG slice's figure
            continue
        card = found.setdefault(int(gpu), Card(index=int(gpu)))
        card.uuid, card.name = named.get("UUID", ""), named.get("modelName", "")
        card.pci = named.get("pci_bus_id", "")
        try:
            put(card, int(float(value)))
        except (ValueError, OverflowError):
            continue  # NaN, or something that no field is
    return [found[index] for index in sorted(found)]
