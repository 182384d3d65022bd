"""What an engine may still say once it serves. test_canary has a real one say it."""

import io
import logging
import sys
import warnings
from collections.abc import Iterator

import pytest

from workers.agent.launcher import quiet

log = logging.getLogger("tests.quiet")


@pytest.fixture
def said() -> Iterator[io.StringIO]:
    """What an engine's log holds; it is told that the engine serves."""
    before = logging.getLogRecordFactory(), sys.excepthook
    paper = io.StringIO()
    handler = logging.StreamHandler(paper)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    log.addHandler(handler)
    log.propagate = False
    quiet.install()
    yield paper
    log.removeHandler(handler)
    logging.setLogRecordFactory(before[0])
    logging.captureWarnings(False)
    sys.excepthook = before[1]


def serve(paper: io.StringIO) -> None:
    log.warning("Application startup complete.")
    paper.truncate(0)
    paper.seek(0)


def test_a_start_is_told_in_full(said: io.StringIO) -> None:
    log.warning("Using max model len %d of %s", 4096, "/models/x")
    assert said.getvalue() == "WARNING Using max model len 4096 of /models/x\n"


def test_later_only_numbers_and_the_codes_own_words(said: io.StringIO) -> None:
    serve(said)
    secret = "-".join(["a", "canary"])
    log.warning("Throughput: %.1f tokens/s of %s, %r", 3.14, secret, {"prompt": secret})
    log.warning("Shutting down, which takes two pieces")
    log.warning("It is %s", "over")
    log.warning(f"Bad request: {secret}")
    log.warning("Bad request: " + secret)
    log.warning("%(a)s and %(b)d", {"a": secret, "b": 2})
    log.warning(secret)
    assert said.getvalue().splitlines() == [
        "WARNING Throughput: 3.1 tokens/s of …, …",
        "WARNING Shutting down, which takes two pieces",
        "WARNING It is over",
        "WARNING (a message about a request)",
        "WARNING (a message about a request)",
        "WARNING … and 2",
        "WARNING (a message about a request)",
    ]


def test_an_exception_keeps_its_place_and_loses_its_words(said: io.StringIO) -> None:
    serve(said)
    try:
        try:
            raise KeyError("canary")
        except KeyError as error:
            raise ValueError("canary") from error
    except ValueError:
        log.exception("It failed")
    text = said.getvalue()
    assert text.startswith("ERROR It failed\nTraceback (most recent call last):\n")
    assert "test_quiet.py" in text
    assert text.endswith("ValueError\n… from KeyError\n")
    assert "canary" not in text


def test_what_nobody_catches_and_warnings(
    said: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(said)
    error = ValueError("canary")
    sys.excepthook(ValueError, error, None)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("canary", stacklevel=1)
    assert "canary" not in capsys.readouterr().err + said.getvalue()
