"""Combine a template, the style sheet and the script in one file that loads nothing else."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from importlib import resources
from typing import TYPE_CHECKING, Any

from harness.core.text import json_text, visible

if TYPE_CHECKING:
    from jinja2 import Environment

# In JSON these occur inside strings only, where the escape means the same. Without them no text
# can end the element that holds the data, nor open a comment in it.
_ESCAPES = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


def render(template: str, *, data: Any = None, sheet: str = "", **context: Any) -> str:
    """Render `template` with `context`, whose text is escaped and made visible.

    Args:
        data: JSON that the page's script reads.
        sheet: name of a further style sheet.
    """
    style, script = _asset("page.css") + (_asset(sheet) if sheet else ""), _asset("page.js")
    from markupsafe import Markup

    return (
        _environment()
        .get_template(template)
        .render(
            context
            | {
                "csp": _policy(style, script),
                "style": Markup(style),  # noqa: S704 - our own file
                "script": Markup(script),  # noqa: S704 - our own file
                "data": None if data is None else Markup(embed(data)),  # noqa: S704 - escaped there
            }
        )
    )


def embed(data: Any) -> str:
    """Write JSON for a `<script type="application/json">`, which no text in it can end."""
    text = json.dumps(_visible(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return json_text(text.translate(_ESCAPES))


def _visible(value: Any) -> Any:
    """Make all text in `value` visible."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, list):
        return [_visible(inner) for inner in value]
    if isinstance(value, dict):
        return {visible(key): _visible(inner) for key, inner in value.items()}
    return value


def _policy(style: str, script: str) -> str:
    """Return the Content-Security-Policy of a page with only this style sheet and script."""
    return "; ".join(
        [
            "default-src 'none'",
            f"style-src {_hash(style)}",
            f"script-src {_hash(script)}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


@functools.cache
def _asset(name: str) -> str:
    return (resources.files(__package__) / "templates" / name).read_text(encoding="utf-8")


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def shown(value: Any) -> Any:
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    return Environment(
        loader=PackageLoader("harness.render.html"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
