"""A page as a browser would read it: its forms, and whatever a strict policy would refuse."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

_URLS = {"src", "href", "action", "hx-get", "hx-post", "data-stream", "data-events"}


@dataclass
class Page:
    text: str
    inline: list[str] = field(default_factory=list)  # what the policy refuses
    addresses: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    labelled: set[str] = field(default_factory=set)
    unlabelled: list[str] = field(default_factory=list)
    forms: list[dict[str, str]] = field(default_factory=list)
    tokens: int = 0


class _Reader(HTMLParser):
    def __init__(self, page: Page) -> None:
        super().__init__()
        self.page = page
        self.controls: list[tuple[str, dict[str, str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        have = {name: value or "" for name, value in attrs}
        if tag == "style" or (tag == "script" and "src" not in have):
            self.page.inline.append(f"<{tag}>")
        for name in have:
            if name == "style" or name.startswith(("on", "hx-on")):
                self.page.inline.append(f"<{tag} {name}>")
        self.page.addresses += [have[name] for name in _URLS & have.keys()]
        if "id" in have:
            self.page.ids.append(have["id"])
        if tag == "label" and "for" in have:
            self.page.labelled.add(have["for"])
        if tag == "form":
            self.page.forms.append(have)
        if have.get("name") == "csrfmiddlewaretoken":
            self.page.tokens += 1
        elif tag in ("input", "select", "textarea") and have.get("type") not in (
            "hidden",
            "checkbox",
        ):
            self.controls.append((tag, have))


def read(response: Any) -> Page:
    """Of a test client's answer."""
    page = Page(response.content.decode())
    reader = _Reader(page)
    reader.feed(page.text)
    page.unlabelled = [
        have.get("id", tag)
        for tag, have in reader.controls
        if have.get("id") not in page.labelled and "aria-label" not in have
    ]
    return page
