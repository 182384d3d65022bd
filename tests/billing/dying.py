"""A process that is killed between two statements."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection


class Killed(BaseException):
    """Stands for kill -9: nobody catches it."""


@contextmanager
def dying(after: int) -> Iterator[None]:
    """The process ends before this statement, or after it: `after` counts both."""
    left = after

    def execute(run: Callable[..., Any], *args: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed
        done = run(*args)
        left -= 1
        if left == 0:
            raise Killed
        return done

    with connection.execute_wrapper(execute):
        yield
