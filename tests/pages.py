"""For tests of pages: text that would act if a page took it for anything but text, and what a page consists of."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>\u2028 &lt;"


def hostile(step: int, distribution: str, tokens: int) -> str:
    return f"{HOSTILE} of step-{step}"


class Elements(HTMLParser):
    """Names of the elements of a page, and what its scripts of data hold."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.outside: list[str] = []  # attributes that name another place
        self.data: dict[str, Any] = {}
        self._at: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.names.append(tag)
        self.outside += [values[key] or "" for key in ("src", "href", "action") if key in values]
        self._at = values.get("id") if values.get("type") == "application/json" else None

    def handle_data(self, data: str) -> None:
        if self._at:
            self.data[self._at] = json.loads(data)
            self._at = None
