"""What tokens cost, exactly: a price per million with twelve decimals is a whole number of
attoeuro (10^-18) per token. Requests are charged in whole nanoeuro, rounded up once."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from billing import rating
from gateway.usage import Usage

_ATTO_PER_TOKEN = 10**12  # of a price of one euro per million tokens
_ATTO_PER_NANO = 10**9
_METERS = ("input_tokens", "cached_tokens", "output_tokens")


@dataclass(frozen=True, slots=True)
class TokenPrices:
    """Attoeuro per token."""

    input: int = 0
    cached: int = 0
    output: int = 0

    def cost(self, used: Usage) -> int:
        """Nanoeuro, rounded up."""
        fresh = used.input - used.cached
        atto = fresh * self.input + used.cached * self.cached + used.output * self.output
        return -(-atto // _ATTO_PER_NANO)

    def most(self, prompt: int, output: int) -> int:
        """Nanoeuro that a request may cost at most: nothing of its prompt is cached."""
        atto = prompt * max(self.input, self.cached) + output * self.output
        return -(-atto // _ATTO_PER_NANO)

    def affords(self, nano: int, prompt: int) -> int | None:
        """Output tokens that `nano` buys beside the prompt; below 0 where it is short of that;
        None where output costs nothing."""
        rest = nano * _ATTO_PER_NANO - prompt * max(self.input, self.cached)
        if rest < 0:
            return -1
        return rest // self.output if self.output else None


class PriceList:
    """Every version of the token prices; which one applies is rating's to say."""

    def __init__(self, versions: Iterable[rating.PriceVersion] = ()) -> None:
        self._versions = tuple(versions)
        self._turns = [turn.timestamp() for turn in rating.changes(self._versions)]
        self._known: dict[str, tuple[float, float, TokenPrices]] = {}

    def at(self, device_kind: str, now: float) -> TokenPrices:
        """The prices in force at `now` (Unix seconds); what has no price costs nothing here."""
        known = self._known.get(device_kind)
        if known is not None and known[0] <= now < known[1]:
            return known[2]
        since = max((turn for turn in self._turns if turn <= now), default=0.0)
        until = min((turn for turn in self._turns if turn > now), default=float("inf"))
        at = datetime.fromtimestamp(now, UTC)
        prices = TokenPrices(*(self._one(meter, device_kind, at) for meter in _METERS))
        self._known[device_kind] = (since, until, prices)
        return prices

    def _one(self, meter: str, device_kind: str, at: datetime) -> int:
        found = rating.price_at(self._versions, meter, device_kind, at, "EUR")
        return int(found.amount * Decimal(_ATTO_PER_TOKEN)) if found is not None else 0

    @property
    def versions(self) -> tuple[rating.PriceVersion, ...]:
        return self._versions
