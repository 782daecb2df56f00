"""A figure and the words around it."""

from __future__ import annotations

from dataclasses import dataclass

import plotly.graph_objects as go


@dataclass(frozen=True)
class Plot:
    """One figure of the report."""

    key: str  # unique; the page names it by this
    page: str  # pages of the report that show it, with spaces between
    title: str
    note: str  # what is shown, in a sentence
    figure: go.Figure | None  # None: nothing was measured
    absent: str = ""  # what to say then; "": the plot is left out
    wide: bool = False
