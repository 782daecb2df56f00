"""One sentence of the report's first page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One sentence, and which page of the report shows more."""

    text: str
    tone: str = ""  # good, fair, bad, or nothing
    page: str = ""
