"""A GPU as it is now, whoever says so: NVIDIA's driver (nvml.py) or a DCGM exporter (dcgm.py)."""

import msgspec


class Holder(msgspec.Struct, kw_only=True):
    """A process that holds a GPU's memory."""

    pid: int
    bytes: int = 0


class Link(msgspec.Struct, kw_only=True):
    """An NVLink of a GPU; the counts are the driver's, since it was loaded."""

    index: int
    active: bool = True
    replays: int = 0
    recoveries: int = 0
    crc_errors: int = 0


class Card(msgspec.Struct, kw_only=True):
    """One GPU. None: it does not say (older than the figure, or nobody asked)."""

    index: int
    uuid: str = ""
    serial: str = ""
    name: str = ""
    pci: str = ""  # its address, as the driver writes it: 00000000:3B:00.0
    error: str = ""  # why the driver knows nothing more of it: it fell off the bus, say
    memory_bytes: int = 0
    memory_used_bytes: int = 0
    temperature_c: int | None = None
    slowdown_c: int | None = None  # from there on it slows itself down
    ecc_corrected: int | None = None  # since the driver was loaded
    ecc_uncorrected: int | None = None
    ecc_uncorrected_ever: int | None = None
    rows_remapped: int | None = None  # for errors that could not be corrected
    remap_pending: bool = False
    remap_failed: bool = False
    pages_retired: int | None = None  # of GPUs that retire pages and remap no rows
    retirement_pending: bool = False
    slowed_by: int = 0  # bits: nvmlClocksEventReason…
    xid: int = 0  # the newest that the exporter saw; the driver's own are in the kernel's log
    links: list[Link] = []
    holders: list[Holder] = []


class Reading(msgspec.Struct, kw_only=True):
    """All GPUs of a node at one moment."""

    driver: str = ""
    cuda: int = 0  # the newest CUDA that the driver serves: 12080 is 12.8
    cards: list[Card] = []
    error: str = ""  # why the driver says nothing


def position(pci: str) -> tuple[int, int, int] | None:
    """Domain, bus and device of a PCI address, however many digits it has; None: none."""
    parts = pci.strip().split(":")
    try:
        device = int(parts[-1].partition(".")[0], 16)
        return int(parts[-3], 16) if len(parts) > 2 else 0, int(parts[-2], 16), device
    except (IndexError, ValueError):
        return None
