"""What was quoted for an endpoint beside its last day of traffic, as its page shows it."""

from typing import Any

from controlplane.endpoints import quote_outcomes
from controlplane.endpoints.models import Endpoint
from controlplane.endpoints.quote_outcomes import Outcome

_NAMES = {
    "ttft_p50_s": "First token, median",
    "ttft_p95_s": "First token, 95 of 100",
    "tpot_p50_s": "Each other token, median",
    "tpot_p95_s": "Each other token, 95 of 100",
    "output_tokens_per_second": "Tokens written a second",
    "price_hour": "An hour",
    "price_million_tokens": "A million tokens",
}


def facts(endpoint: Endpoint) -> dict[str, Any] | None:
    """None where it was made without a quote."""
    quote = endpoint.quote
    if quote is None:
        return None
    found = quote_outcomes.outcomes(endpoint, quote)
    newest = found[0] if found else None
    return {
        "quote": quote,
        "as_quoted": quote_outcomes.quoted_as(endpoint, quote) is not None,
        "newest": newest,
        "asked": quote.body.get("load"),
        "rows": _rows(newest) if newest else [],
    }


def _rows(outcome: Outcome) -> list[dict[str, Any]]:
    told = quote_outcomes.facts(outcome)
    currency = outcome.candidate["price"]["currency"] if outcome.candidate else "EUR"
    return [
        {
            "name": _name(one["figure"]),
            **{
                column: _shown(one["figure"], one[column], currency)
                for column in ("predicted", "predicted_p95", "measured")
            },
            "off": f"{100 * one['off']:+.0f} %",
            "kept": one["kept"],
        }
        for one in told["figures"]
    ]


def _name(figure: str) -> str:
    return _NAMES.get(figure) or f"Start, {figure.removeprefix('start_').removesuffix('_s')}"


def _shown(figure: str, value: float | str, currency: str) -> str:
    if figure.startswith("price_"):
        return f"{value} {currency}"  # as exact as it is
    number = float(value)
    if not figure.endswith("_s"):
        return f"{number:,.1f}"
    return f"{1000 * number:,.1f} ms" if number < 1 else f"{number:,.2f} s"
