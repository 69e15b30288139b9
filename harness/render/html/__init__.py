"""Pages: one HTML file each, which needs no network, no server and no other file.

A page is made for hostile content: text from models and data is escaped by the templates or set
as text by the script, what cannot be seen is made visible, and the page's Content-Security-Policy
allows its own style sheet and script by their hashes and nothing else. Equal input gives equal
bytes.
"""

from __future__ import annotations

from harness.render.html.board import board
from harness.render.html.report import report
from harness.render.html.rewrites import rewrites

__all__ = ["board", "report", "rewrites"]
