"""Pages as one HTML file: everything inlined, nothing fetched, whatever a model wrote shown as text.

Templates escape by default. What comes from a run reaches scripts as JSON in which no tag can begin, and the page's
policy lets only the scripts run whose hashes it names: text that escaped nevertheless would not be executed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from rlcurric.version import __version__

POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; "
    "connect-src {connect}; base-uri 'none'; form-action 'none'"
)


def fill(
    template: str,
    scripts: Sequence[str],
    data: Mapping[str, Any],
    *,
    connect: str = "'none'",
    **values: Any,
) -> str:
    """The page of a template among the assets, with these scripts, and data that they read by name."""
    sources = {
        "theme": _asset("theme.js"),
        "plotly": get_plotlyjs(),
        "js": "".join(_asset(name) for name in ("shared.js", *scripts)),
    }
    assert not any("</script" in text.lower() for text in sources.values())
    environment = Environment(
        loader=FunctionLoader(_asset), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(
        **values,
        data={key: Markup(script_json(value)) for key, value in data.items()},
        css=Markup(_asset("page.css")),
        policy=_policy(sources.values(), connect),
        version=__version__,
        written=time.strftime("written %Y-%m-%d %H:%M %Z"),
        **{name: Markup(text) for name, text in sources.items()},
    )


def write_html(page: str, file: Path) -> int:
    """Write a page in one step; its size in bytes."""
    text = page.encode("utf-8", errors="replace")
    temporary = file.with_name(file.name + ".tmp")
    temporary.write_bytes(text)
    temporary.replace(file)
    return len(text)


def script_json(value: Any) -> str:
    """JSON that may stand inside a script element: no tag and no comment begins in it, and no NaN is in it."""
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value


def _asset(name: str) -> str:
    return (resources.files("rlcurric.report") / "assets" / name).read_text(encoding="utf-8")


def _policy(scripts: Iterable[str], connect: str) -> Markup:
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    named = " ".join(f"'sha256-{one}'" for one in hashes)
    return Markup(POLICY.format(scripts=named, connect=connect))


def large(value: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g} {letter}"
    return f"{value:,.0f}"
