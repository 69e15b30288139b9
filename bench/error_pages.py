"""Put measured rates into the documentation, and name claims that no measured rate supports.

    python bench/error_pages.py docs

reads the rows that `bench/gate_error.py --docs docs` wrote. Tables stand between
`<!-- table: NAME -->` and `<!-- /table -->`. `QUOTES` are sentences of the pages, each with the
range that the rows behind it must reach with their intervals. Any other percentage in the pages has
to be a level that somebody sets (`LEVELS`).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import panel
from error_rows import exceeds, from_csv
from error_tables import TABLES, Query, Rows, largest, percent, smallest

from harness.core.files import write_text
from harness.render.table import table

CSV = Path("results", "gate_error.csv")
GUIDE, RESULTS, GATE, README = "statistics.md", "results/statistics.md", "gate.md", "../README.md"
LEVELS = {"5 %", "95 %", "80 %"}  # of tests and intervals, and of the power that a plan takes
PERCENTAGE = re.compile(r"\d[\d.,]* ?%")
BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Promise:
    """What is promised of an event, and the rows of which the worst shows whether it is kept."""

    where: str
    event: str
    promised: str
    queries: tuple[Query, ...]
    worst: str = "largest"


PASSES, FAILS = "a candidate at the margin passes", "a candidate at the margin fails"
EITHER = "a candidate at the margin passes, or fails"
TANGO_PASSES, TANGO_FAILS = (Query("yes/no", event, "Tango") for event in ("pass", "fail"))
SIX, FIVE, NONE = "at most 6 %", "at most 5 %", "-"
OWN = panel.OWN

PROMISES = (
    Promise("yes/no answers, 30 items or more", PASSES, "at most 7 %", (TANGO_PASSES,)),
    Promise("yes/no answers, 30 items or more", FAILS, "at most 10 %", (TANGO_FAILS,)),
    Promise("grades, 100 items or more", PASSES, SIX, (Query("panel", "pass", OWN, at_least=100),)),
    Promise("the same, 20 and 50 items", PASSES, SIX, (Query("panel", "pass", OWN, below=100),)),
    Promise(
        "values without a known range, 100 items or more",
        EITHER,
        NONE,
        tuple(Query("no range", event, at_least=100) for event in ("pass", "fail")),
    ),
    Promise("20 clusters or more", PASSES, SIX, (Query("clusters", "pass", OWN, at_least=20),)),
    Promise("12 clusters", PASSES, NONE, (Query("clusters", "pass", OWN, below=20),)),
    Promise("6 and 8 clusters", PASSES, SIX, (Query("few", "pass", OWN),)),
    Promise(
        "grades with a range; clusters",
        FAILS,
        SIX,
        (
            Query("panel", "fail", OWN),
            Query("clusters", "fail", OWN),
            Query("few", "fail", OWN),
        ),
    ),
    Promise(
        "yes/no answers; grades with a range; clusters",
        "an unchanged candidate fails",
        FIVE,
        (
            Query("yes/no", "unchanged fails"),
            Query("panel", "unchanged fails", OWN),
            Query("clusters", "unchanged fails", OWN),
        ),
    ),
    Promise(
        "sequential plan, `population`",
        PASSES,
        FIVE,
        (Query("sequential", "pass", "population", "a margin worse"),),
    ),
    Promise(
        "sequential plan, `items`",
        "a candidate at the margin on these items passes",
        FIVE,
        (Query("sequential", "pass", "items", "on these items"),),
    ),
    Promise(
        "runs that differ; noise measured on 5 or 10 runs",
        EITHER,
        SIX,
        tuple(Query("noise", event, "noise of") for event in ("pass", "fail")),
    ),
    Promise(
        "flip alarm", "an alarm although nothing changed", FIVE, (Query("yes/no", "flip alarm"),)
    ),
    Promise(
        "labels of 8 metrics",
        "any label although nothing changed",
        FIVE,
        (Query("same", "any false label"),),
    ),
    Promise(
        "note on items that share a tag",
        "a note although they do not go together",
        "at most 2 %",
        (Query("shared", "note", case="ICC 0,"),),
    ),
    Promise(
        "95 % interval in a table, graded metric with a range",
        "it holds the true mean",
        "at least 93 %",
        (Query("tables", "covers", promised=True),),
        "smallest",
    ),
    Promise(
        "95 % interval in a table, 20 named clusters or more",
        "it holds the true mean",
        "at least 93 %",
        (Query("clustered tables", "covers", "clusters named"),),
        "smallest",
    ),
    Promise(
        "95 % interval in a table, yes/no answers",
        "it holds the true mean",
        NONE,
        (Query("tables", "covers", case="right", promised=False),),
        "smallest",
    ),
    Promise(
        "promotion on fresh items, default threshold",
        "a candidate that is only noise is promoted",
        NONE,
        (Query("loops", "noise candidates promoted", "threshold 1, fresh"),),
    ),
)


@dataclass(frozen=True)
class Quote:
    """A claim on a page, and the range that the intervals of all rows of the query must reach."""

    page: str
    text: str
    low: float
    high: float
    query: Query


NO_DROP = Query("same", "blocked", "no drop allowed")
ONE_POINT = Query("same", "blocked", "at most 1 point", at_least=200, below=201)
NOISE = Query("loops", "noise candidates promoted", "threshold 1, fresh", "margin 0.5")
IGNORED = Query("clusters", "pass", "clusters ignored", "ICC 0.5", at_least=20)
PEEKING = Query("sequential", "pass", "looking every 10 items")
ABOUT_ITEMS = Query("sequential", "pass", "items", "a margin worse over all questions")

AT_MARGIN = Query("panel", "pass", OWN, at_least=100)

QUOTES = (
    Quote(README, "almost half of the re-runs of an unchanged model", 0.42, 0.5, NO_DROP),
    Quote(README, "up to one in three", 0.28, 0.35, ONE_POINT),
    Quote(README, "at most 7 % of the time", 0, 0.07, TANGO_PASSES),
    Quote(README, "up to 16 % of candidates that are only noise", 0.15, 0.165, NOISE),
    Quote(GATE, "almost half of the time", 0.42, 0.5, NO_DROP),
    Quote(GATE, "at most 7 % of the time", 0, 0.07, TANGO_PASSES),
    Quote(GATE, "in a fifth to half of the gates", 0.17, 0.53, IGNORED),
    Quote(GATE, "six times as often as it claims", 0.27, 0.33, PEEKING),
    Quote(GATE, "half of the time if it is worse over all questions", 0.4, 0.6, ABOUT_ITEMS),
    Quote(GATE, "up to 16 % of candidates that are only noise", 0.15, 0.165, NOISE),
    Quote(GUIDE, "at most 6 % for grades and clusters", 0, 0.06, AT_MARGIN),
    Quote(GUIDE, "at most 7 % for yes/no answers", 0, 0.07, TANGO_PASSES),
    Quote(GUIDE, "fails up to 10 % of candidates at the margin", 0, 0.1, TANGO_FAILS),
    Quote(GUIDE, "almost half of the time", 0.42, 0.5, NO_DROP),
    Quote(GUIDE, "a fifth to half of the candidates at the margin pass", 0.17, 0.53, IGNORED),
    Quote(GUIDE, "passes in half of the gates", 0.4, 0.6, ABOUT_ITEMS),
    Quote(GUIDE, "about six times too often", 0.27, 0.33, PEEKING),
)


def promises(rows: Rows) -> str:
    """Tabulate what is promised, with the worst case that was measured."""
    body = []
    for promise in PROMISES:
        found = [row for query in promise.queries for row in query(rows)]
        worst = (largest if promise.worst == "largest" else smallest)(found)
        body.append(
            [
                promise.where,
                promise.event,
                promise.promised,
                percent(worst),
                f"{worst.case}, n {worst.n:,}".replace("any number of items, ", ""),
                f"{worst.gates:,}" if worst.gates else "exact",
            ]
        )
    head = ["where", "event", "promised", "measured, %", "worst case", "gates"]
    return table([head, *body])


def kept(rows: Rows) -> str:
    """Count the promised rates that were measured beyond their promise."""
    promised = [row for row in rows if row.promised]
    beyond = [row for row in promised if exceeds(row, 0.5)]
    count = len(beyond) or "None"
    return f"{count} of {len(promised):,} promised rates lie beyond the promise."


def fill(text: str, rows: Rows) -> str:
    """Put the tables into a page."""
    tables = TABLES | {"promises": promises, "kept": kept}

    def filled(found: re.Match[str]) -> str:
        return f"{found[1]}\n{tables[found[2]](rows)}\n\n{found[3]}"

    return BLOCK.sub(filled, text)


def unsupported(docs: Path, rows: Rows) -> Iterator[str]:
    """Say which sentences and percentages of the pages the rows do not support."""
    for name in (GUIDE, RESULTS, GATE, README):
        text = FENCED.sub("", BLOCK.sub("", (docs / name).read_text()))
        text = " ".join(text.replace("**", "").replace("*", "").split())
        for quote in QUOTES:
            if quote.page != name:
                continue
            if quote.text not in text:
                yield f"{name}: '{quote.text}' has rows, but is not on the page"
            text = text.replace(quote.text, "")
            for row in quote.query(rows):
                if row.high < quote.low or row.low > quote.high:
                    yield f"{name}: '{quote.text}', but {row.value:.3f} was measured: {row.case}"
        for figure in PERCENTAGE.findall(text):
            if figure not in LEVELS:
                yield f"{name}: {figure} has no row"


def write(docs: Path) -> None:
    """Write the tables into the pages.

    Raises:
        SystemExit: the pages claim what the rows do not support.
    """
    rows, _ = from_csv((docs / CSV).read_text())
    for name in (GUIDE, RESULTS):
        page = docs / name
        write_text(page, fill(page.read_text(), rows))
    if problems := [*unsupported(docs, rows)]:
        raise SystemExit("\n".join(problems))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("docs", type=Path, help="folder of the pages")
    write(parser.parse_args().docs)
