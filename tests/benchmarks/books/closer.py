"""One process of several that close a month: `python -m tests.benchmarks.books.closer 0 2 URL`.

One line of JSON for each account that is done, `{"seen": 7}`, and a last one with what became of
all. The environment says which database.
"""

import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import django
import httpx

from tests.benchmarks.books.timing import peak_mb


def main(index: int, of: int, vies_url: str) -> None:
    django.setup()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    from django.db import connection

    from billing.invoices import month_end
    from billing.vat.vies import ViesClient
    from tests.benchmarks.books.month import CLOSED, START

    early = 0.0

    def progress(closing: month_end.Closing) -> None:
        nonlocal early
        if not early and closing.seen * of * 5 >= closing.accounts:
            early = peak_mb()
        print(json.dumps({"seen": closing.seen}), flush=True)

    statements = Statements()
    with httpx.Client(trust_env=False) as http, connection.execute_wrapper(statements):
        ask = ViesClient(http, lambda: CLOSED, vies_url).check
        done = month_end.close_month(START, CLOSED, ask=ask, progress=progress, part=(index, of))
    said = {**done.as_json(), "statements": statements.count, "cpu_s": time.process_time()}
    print(json.dumps({**said, "peak_mb": peak_mb(), "early_mb": early}), flush=True)


class Statements:
    """Counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, execute: Callable[..., Any], *given: Any) -> Any:
        self.count += 1
        return execute(*given)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
