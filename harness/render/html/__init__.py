"""Render pages: each is one HTML file that needs no network, no server and no other file.

Pages are safe for hostile content. Text from models and data is escaped by the templates or set as
text by the script, invisible characters are made visible, and the Content-Security-Policy allows
only the page's own style sheet and script, by their hashes. Equal input gives equal bytes.
"""

from __future__ import annotations

from harness.render.html.board import board
from harness.render.html.report import report
from harness.render.html.rewrites import rewrites

__all__ = ["board", "report", "rewrites"]
