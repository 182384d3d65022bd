"""`python -m workers.agent.health.nvml_reader`: one reading of NVIDIA's driver as JSON.

A process of its own: a driver that hangs holds nothing up that cannot be killed, one that crashes
takes no agent with it, and nobody keeps a GPU open that somebody wants to reset.
"""

import contextlib
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import pynvml as nvml

from workers.agent.health.cards import Card, Holder, Link, Reading

T = TypeVar("T")

_LINKS = 18  # the most of any GPU but those of a rack
_CAUSES = (
    nvml.NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS,
    nvml.NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR,
)


def main() -> int:
    sys.stdout.buffer.write(msgspec.json.encode(read()))
    return 0


def read() -> Reading:
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return Reading(error=str(error))
    try:
        return Reading(
            driver=_text(nvml.nvmlSystemGetDriverVersion()),
            cuda=_known(nvml.nvmlSystemGetCudaDriverVersion_v2, 0),
            cards=[_card(index) for index in range(nvml.nvmlDeviceGetCount())],
        )
    except nvml.NVMLError as error:
        return Reading(error=str(error))
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _card(index: int) -> Card:
    card = Card(index=index)
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        card.uuid = _text(nvml.nvmlDeviceGetUUID(handle))
        card.name = _text(nvml.nvmlDeviceGetName(handle))
        card.pci = _text(nvml.nvmlDeviceGetPciInfo(handle).busId)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        card.memory_bytes, card.memory_used_bytes = memory.total, memory.used
    except nvml.NVMLError as error:
        card.error = str(error)
        return card
    card.serial = _text(_known(lambda: nvml.nvmlDeviceGetSerial(handle), ""))
    _heat(card, handle)
    _memory(card, handle)
    card.links = _links(handle)
    none: list[Any] = []
    found = _known(lambda: nvml.nvmlDeviceGetComputeRunningProcesses_v3(handle), none)
    card.holders = [Holder(pid=one.pid, bytes=one.usedGpuMemory or 0) for one in found]
    return card


def _heat(card: Card, handle: object) -> None:
    card.temperature_c = _known(
        lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU), None
    )
    card.slowdown_c = _known(
        lambda: nvml.nvmlDeviceGetTemperatureThreshold(
            handle, nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
        ),
        None,
    )
    card.slowed_by = _known(lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle), 0)


def _memory(card: Card, handle: object) -> None:
    def errors(kind: int, since: int) -> int | None:
        return _known(lambda: int(nvml.nvmlDeviceGetTotalEccErrors(handle, kind, since)), None)

    corrected, uncorrected = (
        nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED,
        nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
    )
    card.ecc_corrected = errors(corrected, nvml.NVML_VOLATILE_ECC)
    card.ecc_uncorrected = errors(uncorrected, nvml.NVML_VOLATILE_ECC)
    card.ecc_uncorrected_ever = errors(uncorrected, nvml.NVML_AGGREGATE_ECC)
    rows = _known(lambda: nvml.nvmlDeviceGetRemappedRows(handle), None)
    if rows is not None:
        _, card.rows_remapped, pending, failed = rows
        card.remap_pending, card.remap_failed = bool(pending), bool(failed)
        return
    pages = [_retired(handle, cause) for cause in _CAUSES]
    if any(count is not None for count in pages):
        card.pages_retired = sum(count or 0 for count in pages)
    card.retirement_pending = bool(
        _known(lambda: nvml.nvmlDeviceGetRetiredPagesPendingStatus(handle), 0)
    )


def _retired(handle: object, cause: int) -> int | None:
    return _known(lambda: len(nvml.nvmlDeviceGetRetiredPages(handle, cause)), None)


def _links(handle: object) -> list[Link]:
    found = []
    for index in range(_LINKS):
        link = _link(handle, index)
        if link is None:
            break  # it has no more of them
        found.append(link)
    return found


def _link(handle: object, index: int) -> Link | None:
    def errors(counter: int) -> int:
        return _known(lambda: int(nvml.nvmlDeviceGetNvLinkErrorCounter(handle, index, counter)), 0)

    try:
        active = bool(nvml.nvmlDeviceGetNvLinkState(handle, index))
    except nvml.NVMLError:
        return None
    return Link(
        index=index,
        active=active,
        replays=errors(nvml.NVML_NVLINK_ERROR_DL_REPLAY),
        recoveries=errors(nvml.NVML_NVLINK_ERROR_DL_RECOVERY),
        crc_errors=errors(nvml.NVML_NVLINK_ERROR_DL_CRC_FLIT),
    )


def _known(ask: Callable[[], T], otherwise: T) -> T:
    """What the driver says, or `otherwise` where this GPU or driver knows no such figure."""
    try:
        return ask()
    except nvml.NVMLError:
        return otherwise


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


if __name__ == "__main__":
    sys.exit(main())
