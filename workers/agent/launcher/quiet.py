"""Keep what clients say out of an engine's log, and off its disk.

An engine quotes requests and answers where it complains of them: in arguments of its messages, in
those of exceptions. Until it serves nobody has said anything yet, and its words explain a start
that failed; from then on only its own words pass: a message's template and its numbers, an
exception's type and where it was raised. A file and a line say where to look.

An engine's web framework moves a file that it is sent to a temporary one, where it is longer than
a mebibyte. vLLM reads it into memory whole in any case, so there it stays.

Standard library alone, until `keep_uploads`. It works in each process that is forked afterwards; as
a program it is `vllm`, and works in what that spawns too.
"""

import ast
import logging
import sys
import threading
import traceback
from functools import cache
from types import TracebackType
from typing import Any

# With these an engine's two kinds of process say that they have started.
_SERVES = ("Application startup complete", "init engine (profile")
_SHOWN = (int, float, bool, type(None))


class _Hidden:
    def __repr__(self) -> str:
        return "…"

    __str__ = __repr__


HIDDEN = _Hidden()


class Quiet:
    def __init__(self) -> None:
        self.on = False
        self._make = logging.getLogRecordFactory()

    def record(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._make(*args, **kwargs)
        if self.on:
            hush(record)
        elif str(record.msg).startswith(_SERVES):
            self.on = True
            logging.captureWarnings(True)
        return record

    def died(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if self.on:
            print(_told(error, trace), file=sys.stderr, flush=True)
        else:
            sys.__excepthook__(kind, error, trace)

    def thread_died(self, what: Any) -> None:
        if what.exc_value is not None:
            self.died(what.exc_type, what.exc_value, what.exc_traceback)


def hush(record: logging.LogRecord) -> None:
    """Leave of a record what the code that made it says, whoever it was about."""
    if record.args:
        if isinstance(record.args, dict):
            known = record.args.items()
            record.args = {name: _shown(value, record.pathname) for name, value in known}
        else:
            record.args = tuple(_shown(value, record.pathname) for value in record.args)
    elif not _literal(record.pathname, str(record.msg)):
        record.msg = "(a message about a request)"
    if record.exc_info:
        error, trace = record.exc_info[1], record.exc_info[2]
        record.exc_info = None
        record.exc_text = _told(error, trace) if error is not None else None


def _shown(value: Any, path: str) -> Any:
    """A number, or a word of the code's own."""
    if isinstance(value, _SHOWN) or (isinstance(value, str) and _literal(path, value)):
        return value
    return HIDDEN


@cache
def _texts(path: str) -> frozenset[str]:
    """The strings that stand in a file's code, each as it is when the code runs."""
    try:
        with open(path, "rb") as file:
            nodes = ast.walk(ast.parse(file.read()))
    except (OSError, SyntaxError, ValueError):
        return frozenset()
    found = (node.value for node in nodes if isinstance(node, ast.Constant))
    return frozenset(value for value in found if isinstance(value, str))


def _literal(path: str, message: str) -> bool:
    """Whether a message stands in the code as it is; one that was put together does not."""
    return message in _texts(path)


def _told(error: BaseException, trace: TracebackType | None) -> str:
    """A traceback without the words of the exceptions."""
    lines = ["Traceback (most recent call last):"]
    lines += [
        f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}'
        for frame in traceback.extract_tb(trace)
    ]
    lines.append(type(error).__qualname__)
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    while cause is not None:
        lines.append(f"… from {type(cause).__qualname__}")
        cause = cause.__cause__ or cause.__context__
    return "\n".join(lines)


def install() -> None:
    quiet = Quiet()
    logging.setLogRecordFactory(quiet.record)
    sys.excepthook = quiet.died
    threading.excepthook = quiet.thread_died


def keep_uploads() -> None:
    """In memory. For the process that serves."""
    from starlette.formparsers import MultiPartParser

    MultiPartParser.spool_max_size = 0  # no bound


if __name__ in ("__main__", "__mp_main__"):  # the latter: a process that an engine spawns
    install()

if __name__ == "__main__":
    from vllm.entrypoints.cli.main import main

    keep_uploads()
    main()
