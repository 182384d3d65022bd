"""Findings about GPUs, from what they say of themselves. Pure, but for what `Gpus` remembers."""

from collections.abc import Iterable, Sequence

from controlplane.fleet.wire import Finding, Severity
from workers.agent.health.cards import Card, Reading

NEAR_C = 5  # so near to where it slows itself down, a GPU is called hot
SLOWDOWN_C = 90  # where a GPU does not say itself
PAGES = 60  # from so many retired pages on NVIDIA takes a GPU back
_RESET = "reset it (nvidia-smi --gpu-reset -i N) once nothing runs on it, or restart the machine"

# Of nvmlClocksEventReason…: those that mean that something is wrong. A power cap is a setting.
_SLOWED = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}


class Gpus:
    """Remembers which GPUs there were and how many errors their links had counted."""

    def __init__(self, known: dict[int, str] | None = None) -> None:
        self.known = dict(known or {})  # index -> UUID
        self._links: dict[tuple[str, int], tuple[int, int]] = {}
        self._active: set[tuple[str, int]] = set()

    def findings(self, reading: Reading) -> list[Finding]:
        if reading.error:
            return [_unread(reading.error)]
        found = self._lost(reading.cards)
        for card in reading.cards:
            if not card.error:
                found += [*of_card(card), *self._nvlink(card)]
        return found

    def _lost(self, cards: Sequence[Card]) -> list[Finding]:
        """Those that the driver gave up, and those that were there and are no more.

        One that is replaced is not lost: there are as many as before.
        """
        found = [_lost(card.index, card.error) for card in cards if card.error]
        here = {card.uuid for card in cards}
        if len(cards) < len(self.known):
            gone = {index: uuid for index, uuid in self.known.items() if uuid not in here}
            found += [_lost(index, f"{uuid} is no longer there") for index, uuid in gone.items()]
        else:
            self.known = {card.index: card.uuid for card in cards if card.uuid}
        return found

    def _nvlink(self, card: Card) -> Iterable[Finding]:
        for link in card.links:
            key = (card.uuid, link.index)
            before = self._links.setdefault(key, (link.recoveries, link.crc_errors))
            grown = (link.recoveries - before[0], link.crc_errors - before[1])
            if link.active:
                self._active.add(key)
            if key in self._active and not link.active:
                yield _finding(
                    "gpu_nvlink",
                    Severity.CRITICAL,
                    card,
                    f"NVLink {link.index} is down",
                    "see nvidia-smi nvlink -s and the fabric manager's log",
                )
            elif max(grown) > 0:
                yield _finding(
                    "gpu_nvlink",
                    Severity.WARNING,
                    card,
                    f"NVLink {link.index}: {grown[0]} recoveries and {grown[1]} CRC errors more"
                    " than when the agent started",
                    "see nvidia-smi nvlink -e; reseat the bridge or the tray if they go on",
                )


def of_card(card: Card) -> list[Finding]:
    """What one GPU's figures say."""
    return [*_heat(card), *_ecc(card), *_rows(card), *_pages(card), *_slowed(card)]


def _heat(card: Card) -> Iterable[Finding]:
    limit = card.slowdown_c or SLOWDOWN_C
    if card.temperature_c is not None and card.temperature_c >= limit - NEAR_C:
        severe = card.temperature_c >= limit
        yield _finding(
            "gpu_temperature",
            Severity.CRITICAL if severe else Severity.WARNING,
            card,
            f"{card.temperature_c} °C; it slows down from {limit} °C on",
            "see to the cooling: fans, filters, inlet temperature",
        )


def _ecc(card: Card) -> Iterable[Finding]:
    if card.ecc_uncorrected:
        yield _finding(
            "gpu_ecc",
            Severity.CRITICAL,
            card,
            f"{card.ecc_uncorrected} memory errors that could not be corrected,"
            f" {card.ecc_uncorrected_ever or card.ecc_uncorrected} in its life",
            _RESET,
        )


def _rows(card: Card) -> Iterable[Finding]:
    if card.remap_failed:
        yield _finding(
            "gpu_row_remap",
            Severity.CRITICAL,
            card,
            "it could not replace a bad row of its memory: no spare row is left",
            "replace the GPU",
        )
    elif card.remap_pending:
        text = f"a bad row of its memory waits to be replaced ({card.rows_remapped or 0} were)"
        yield _finding("gpu_remap_pending", Severity.WARNING, card, text, _RESET)


def _pages(card: Card) -> Iterable[Finding]:
    if (card.pages_retired or 0) >= PAGES:
        text = f"{card.pages_retired} pages of its memory are retired"
        yield _finding("gpu_row_remap", Severity.CRITICAL, card, text, "replace the GPU")
    elif card.retirement_pending:
        text = f"a page of its memory waits to be retired ({card.pages_retired or 0} are)"
        yield _finding("gpu_remap_pending", Severity.WARNING, card, text, _RESET)


def _slowed(card: Card) -> Iterable[Finding]:
    reasons = [name for bit, name in _SLOWED.items() if card.slowed_by & bit]
    if reasons:
        yield _finding(
            "gpu_throttled",
            Severity.WARNING,
            card,
            f"it is slowed down: {', '.join(reasons)}",
            "see to cooling and power supply",
        )


def _lost(index: int, why: str) -> Finding:
    return Finding(
        check="gpu_lost",
        severity=Severity.CRITICAL,
        device=index,
        text=f"the GPU is lost: {why}",
        cure="restart the machine; if it stays away, reseat or replace the GPU",
    )


def _unread(why: str) -> Finding:
    return Finding(
        check="gpu_driver",
        severity=Severity.CRITICAL,
        text=why,
        cure="see nvidia-smi and the kernel's log; restart the machine",
    )


def _finding(check: str, severity: Severity, card: Card, text: str, cure: str) -> Finding:
    return Finding(check=check, severity=severity, device=card.index, text=text, cure=cure)
