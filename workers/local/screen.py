"""What `make up` shows: one line a step, with its seconds; bars where there is a terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Screen:
    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self._began = time.monotonic()

    def say(self, text: str = "") -> None:
        self.console.print(text, markup=False)

    def step(self, text: str, seconds: float | None = None) -> None:
        """A finished step; `seconds` is what it took."""
        took = "" if seconds is None else f"  {seconds:6.1f} s"
        self.console.print(f"  {text:<58}{took}", markup=False)

    @contextmanager
    def timed(self, text: str) -> Iterator[None]:
        began = time.monotonic()
        if self.console.is_terminal:
            with self.console.status(text):
                yield
        else:
            yield
        self.step(text, time.monotonic() - began)

    @contextmanager
    def bar(self, text: str) -> Iterator[Callable[[str, int, int], None]]:
        """Yields progress(what, done, total) for a step that takes minutes."""
        began = time.monotonic()
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=self.console) as progress:
            task = progress.add_task(text, total=None)
            shown = 0.0

            def report(what: str, done: int, total: int) -> None:
                nonlocal shown
                label = f"{text}: {what}" if what else text
                progress.update(task, description=label, completed=done, total=total or None)
                # A log gets a line now and then, not a redrawn bar.
                if not self.console.is_terminal and time.monotonic() - shown > 10:
                    shown = time.monotonic()
                    self.step(f"{label} {done}/{total}", shown - began)

            yield report
            progress.update(task, visible=False)
        self.step(text, time.monotonic() - began)
