"""The console in a real browser: the web process as in production, and Chromium."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.db import connection
from playwright.sync_api import Page, ViewportSize, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
# Nothing of the browser's own may call out; as root it has no sandbox.
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
DESKTOP: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 360, "height": 740}
_PATIENCE_MS = 20_000


@contextmanager
def console() -> Iterator[str]:
    """The web process over the test's database; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        command = ["uvicorn", "controlplane.asgi:application", "--fd", str(door.fileno())]
        command += ["--no-access-log", "--timeout-graceful-shutdown", "1"]
        environment = {
            **os.environ,
            "DATABASE_URL": _database(),
            "DJANGO_SETTINGS_MODULE": "controlplane.settings",
            "PYTHONPATH": f"{ROOT}/platform:{ROOT}",
        }
        environment.pop("DJANGO_ALLOW_ASYNC_UNSAFE", None)
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=environment,
            pass_fds=[door.fileno()],
        )
        try:
            # The door is open already: whoever knocks waits until somebody is behind it.
            yield f"http://127.0.0.1:{door.getsockname()[1]}"
        finally:
            process.terminate()
            process.wait(timeout=20)


def _database() -> str:
    """The URL of the database that pytest made: another name on the same server."""
    url = os.environ["DATABASE_URL"]
    head, _, tail = url.rpartition("/")
    _, query, options = tail.partition("?")
    return f"{head}/{connection.settings_dict['NAME']}{query}{options}"


class Watched:
    """A page, and whatever went on behind it that should not have."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address
        self.complaints: list[str] = []  # the console's: policy violations are among them
        self.requested: list[str] = []
        page.on("console", lambda line: self._said(line.type, line.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requested.append(request.url))

    def _said(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    @property
    def strangers(self) -> list[str]:
        """Requests to anybody but the console."""
        return [url for url in self.requested if not url.startswith(self.address)]

    def open(self, path: str) -> None:
        self.page.goto(f"{self.address}{path}")

    def tab_to(self, selector: str) -> None:
        """Reach it with the keyboard alone."""
        for _ in range(60):
            if self.page.evaluate("s => document.activeElement.matches(s)", selector):
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"the keyboard does not reach {selector}")

    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        width: int = self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        return width


@contextmanager
def watched(address: str) -> Iterator[Watched]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        context = chromium.new_context(viewport=DESKTOP)
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
        context.set_default_timeout(_PATIENCE_MS)
        try:
            yield Watched(context.new_page(), address)
        finally:
            context.close()
            chromium.close()
