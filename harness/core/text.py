"""Prepare text of unknown origin for each kind of output: terminal, Markdown, LaTeX, CSV, XML.

Names, judge replies and model output can carry terminal escapes, characters that reorder a line,
workflow commands of a CI runner, spreadsheet formulas, links and mentions. Every writer passes
such text through the function for its kind of output.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from html import escape

# Controls (but tab and newline), direction marks and overrides (CVE-2021-42574), zero-width
# characters that join nothing, line separators, the invisible "tag" alphabet, and halves of
# surrogate pairs. Joiners (U+200C, U+200D) are spelling in many scripts, and stay.
_HIDDEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff"
)
_UNSEEN = re.compile(f"[{_HIDDEN}]")
NOT_IN_NAMES = re.compile(f"[{_HIDDEN}\t\n]")
# Lines that a CI runner takes for commands: GitHub's two forms, Azure's and TeamCity's. GitHub
# skips white space before "::" and finds "##[" anywhere.
_COMMAND = re.compile(r"^(?=\s*::)", re.MULTILINE)
_OLD_COMMAND = re.compile(r"##(?=\[|vso\[|teamcity\[)")
# What spreadsheets take for the beginning of a formula, full-width forms included.
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
# What XML 1.0 cannot hold, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# What GitHub's Markdown makes live without markup: addresses, mail and mentions. The name of a
# metric, pass@4, is none of these.
_LIVE = re.compile(
    r"(?P<at>@)(?=\w)(?!(?<=\w@)[0-9]{1,6}(?![\w-]|\.\w))"
    r"|(?P<scheme>:)(?=//)|(?<=\bwww)(?P<dot>\.)",
    re.IGNORECASE,
)
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
} | {c: f"\\{c}" for c in "&%$#_{}"}


def visible(text: str) -> str:
    """Replace characters that are invisible or that move others by ⟨U+XXXX⟩."""
    return _UNSEEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text.replace("\r\n", "\n"))


def cut(text: str, limit: int) -> tuple[str, str]:
    """Return the first `limit` characters of `text`, and a note on what is left out, or ""."""
    if len(text) <= limit:
        return text, ""
    return text[:limit], f"the first {limit:,} of {len(text):,} characters"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'X'?" with the known name nearest to `name`, or "" if none is near."""
    near = difflib.get_close_matches(name, [*known], n=1)
    return f" Did you mean {quote(near[0])}?" if near else ""


def short_number(value: float) -> str:
    """Format a number with 4 digits, a large one without decimals."""
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def plural(noun: str, number: float) -> str:
    """Return `noun`, with an "s" unless there is 1 of it."""
    return noun if number == 1 else f"{noun}s"


def one_line(text: str) -> str:
    """Join `text` into one line without invisible characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def shorten(value: object, limit: int = 200) -> str:
    """Put a value of unknown origin on one line of at most `limit` characters, for a sentence."""
    shown, left_out = cut(one_line(str(value)), limit)
    return f"{shown} ... ({left_out})" if left_out else shown


def quote(value: object) -> str:
    """Put a value of unknown origin into quotation marks, shortened and on one line."""
    return f"'{shorten(value)}'"


def listed(values: Iterable[object], most: int = 5) -> str:
    """List the first of `values` for a sentence, and say how many more there are."""
    shown = [shorten(value) for value in values]
    rest = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + rest


def terminal(text: str) -> str:
    """Prepare `text`, of one or more lines, for stdout, stderr and logs of CI runs.

    No character controls the terminal. A line that is a workflow command is shown behind a bar.
    """
    return _OLD_COMMAND.sub("# # ", _COMMAND.sub("| ", visible(text)))


def markdown(text: str) -> str:
    """Prepare `text` for Markdown, on one line, without markup, HTML or ends of table cells.

    Addresses and mentions are defanged, as in "https[:]//" and "[@]name": GitHub would turn them
    into links, and notify the users.
    """
    text = one_line(text)
    text = _LIVE.sub(lambda found: f"[{found[0]}]", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # An underscore inside a word is not markup, and names are full of them.
    return re.sub(r"([\\`*\[\]|~#$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", text)


def latex(text: str) -> str:
    """Prepare `text` for LaTeX, on one line."""
    return "".join(_LATEX.get(c, c) for c in one_line(text))


def json_text(text: str) -> str:
    """Escape JSON for stdout, so that no line is a workflow command; its value is the same."""
    return _OLD_COMMAND.sub(r"#\\u0023", text)


def csv_cell(text: str) -> str:
    """Prepare `text` for a cell of a CSV file, so that no spreadsheet runs it as a formula.

    Text that begins like a formula, or like a workflow command, is quoted by an apostrophe.
    """
    text = _OLD_COMMAND.sub("# # ", "".join(c if c.isprintable() else " " for c in text))
    start = text.lstrip()
    return f"'{text}" if start.startswith((*_FORMULA, "::")) else text


def xml(text: str) -> str:
    """Escape `text` for the content or an attribute of XML, SVG or HTML built by hand."""
    return escape(xml_legal(text))


def xml_legal(text: str) -> str:
    """Replace what XML cannot hold, in text for a library that escapes XML itself."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", visible(text))


def picture(text: str) -> str:
    """Prepare `text` for a label of a figure that is saved as SVG."""
    return one_line(xml_legal(text))
