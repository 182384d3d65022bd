"""The property tests for longer, and what only pays for itself in minutes: `--minutes 5`.

Reconciliation under any interleaving, the spool after any crash, anything at all sent to a
running gateway's port, and anything at all said by an engine or a node. Each part gets its share
of the time and stops at its first failure, which is printed as its smallest example.
"""

import argparse
import logging
import os
import sys
import time
import traceback

import django
from hypothesis import HealthCheck, settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.check_settings")
django.setup()

from tests.figures import figure  # noqa: E402  (Django must be ready first)
from tests.properties import PARTS, Batch, Part  # noqa: E402

BATCH = settings(
    max_examples=100,  # between two looks at the clock
    deadline=None,
    database=None,
    derandomize=False,
    suppress_health_check=list(HealthCheck),
)


def run(part: Part, batch: Batch, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not part.failure:
        try:
            batch(BATCH)
        except (Exception, BaseExceptionGroup) as error:
            part.failure = "".join(traceback.format_exception(error))
    print(f"{part.name}: {part.examples} examples{', FAILED' if part.failure else ''}", flush=True)
    if part.failure:
        print(part.failure, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="for all parts together")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one")
    arguments = parser.parse_args()
    # The cuts and refusals that are asked for here; errors are looked at by the parts.
    logging.getLogger("gateway").setLevel(logging.ERROR)
    parts = [Part(name) for name in arguments.part or PARTS]
    for part in parts:
        with PARTS[part.name](part) as batch:
            run(part, batch, arguments.minutes * 60 / len(parts))
    failures = sum(bool(part.failure) for part in parts)
    figure("fuzz.examples", sum(part.examples for part in parts), "examples")
    figure("fuzz.failures", failures, "properties")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
