"""Tables of measured rates for the documentation; `bench/error_pages.py` puts them into pages."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import panel
from error_rows import Row

from harness.render.table import table

Rows = Sequence[Row]


@dataclass(frozen=True)
class Query:
    """Rows of a part and an event whose test and case contain the texts given."""

    part: str
    event: str
    test: str = ""
    case: str = ""
    at_least: int = 0  # items
    below: float = math.inf
    promised: bool | None = None

    def __call__(self, rows: Rows) -> list[Row]:
        """Return the rows that fit.

        Raises:
            SystemExit: none was measured.
        """
        found = [
            row
            for row in rows
            if (row.part, row.event) == (self.part, self.event)
            and self.test in row.test
            and self.case in row.case
            and self.at_least <= row.n < self.below
            and self.promised in (None, bool(row.promised))
        ]
        if not found:
            raise SystemExit(f"No such row was measured: {self}.")
        return found


def select(
    rows: Rows, part: str, event: str, *, test: str = "", case: str = "", n: int | None = None
) -> list[Row]:
    """Return the rows that `Query` finds, with `n` items if it is given."""
    limits = {} if n is None else {"at_least": n, "below": n + 1}
    return Query(part, event, test, case, **limits)(rows)


def largest(rows: Rows) -> Row:
    return max(rows, key=lambda row: row.value)


def smallest(rows: Rows) -> Row:
    return min(rows, key=lambda row: row.value)


def mean(rows: Rows) -> float:
    return sum(row.value for row in rows) / len(rows)


def percent(row: Row, digits: int = 1) -> str:
    """Show a rate in percent, with its interval unless it is exact."""
    if not row.gates:
        return f"{100 * row.value:.{digits}f}"
    value, low, high = (f"{100 * x:.{digits}f}" for x in (row.value, row.low, row.high))
    return f"{value} [{low}, {high}]"


def amount(row: Row, digits: int = 2, unit: float = 1, sign: str = "") -> str:
    """Show a mean and half the width of its interval."""
    return f"{unit * row.value:{sign},.{digits}f} ± {unit * (row.high - row.low) / 2:.{digits}f}"


def unique(values: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _covered(rows: Rows) -> list[Row]:
    return select(rows, "tables", "covers")


def yes_no(rows: Rows) -> str:
    body = []
    for n in sorted({row.n for row in select(rows, "yes/no", "unchanged passes")}):
        rates = [
            largest(select(rows, "yes/no", event, test=test, n=n))
            for test, event in (("Tango", "pass"), ("Tango", "fail"), ("Wald", "pass"))
        ]
        body.append([f"{n:,}", *map(percent, rates)])
    return table([["items", "Tango passes", "Tango fails", "Wald passes (not used)"], *body])


def yes_no_worst(rows: Rows) -> str:
    body = [
        [row.case.removesuffix(", any number of items"), f"{row.n:,}", row.event, percent(row)]
        for event in ("pass", "fail")
        for row in select(rows, "yes/no", event, case="any number of items")
    ]
    return table([["worst setting", "items", "event", "rate, %"], *body])


def yes_no_power(rows: Rows) -> str:
    passed = select(rows, "yes/no", "unchanged passes")
    cases = unique([row.case for row in passed])
    body = [
        [
            f"{n:,}",
            *(_one(select(passed, "yes/no", "unchanged passes", case=c, n=n)) for c in cases),
        ]
        for n in sorted({row.n for row in passed})
    ]
    return table([["items", *cases], *body])


def _one(rows: Rows) -> str:
    (row,) = rows
    return percent(row)


def panel_errors(rows: Rows) -> str:
    return _by_test(rows, "pass", lambda found: percent(largest(found)))


def panel_power(rows: Rows) -> str:
    return _by_test(rows, "unchanged passes", lambda found: f"{mean(found):.2f}")


def _by_test(rows: Rows, event: str, show: Callable[[Rows], str]) -> str:
    found = select(rows, "panel", event)
    sizes = sorted({row.n for row in found})
    tests = unique([row.test for row in found])
    body = [
        [test, *(show([row for row in found if (row.test, row.n) == (test, n)]) for n in sizes)]
        for test in tests
    ]
    return table([["test", *(f"n {n:,}" for n in sizes)], *body])


def panel_cases(rows: Rows) -> str:
    """Tabulate the gate's test and t on each distribution, with 100 and with 400 items."""
    cases = unique([row.case for row in select(rows, "panel", "pass")])
    body = []
    for case in cases:
        line = [case]
        for n in (100, 400):
            for event in ("pass", "unchanged passes"):
                own, t = (
                    next(r for r in rows if (r.part, r.event, r.test, r.case, r.n) == wanted)
                    for wanted in (
                        ("panel", event, test, case, n) for test in (panel.OWN, "t (not used)")
                    )
                )
                line += (
                    [percent(own), f"{100 * t.value:.1f}"]
                    if event == "pass"
                    else [f"{own.value:.2f}, {t.value:.2f}"]
                )
        body.append(line)
    head = ["gains"]
    for n in (100, 400):
        head += [f"n {n}: passes", "t", "power: the gate's test, t"]
    return table([head, *body])


def no_range(rows: Rows) -> str:
    sizes = sorted({row.n for row in select(rows, "no range", "pass")})
    body = []
    for n in sizes:
        passed, failed = (largest(select(rows, "no range", e, n=n)) for e in ("pass", "fail"))
        power = mean(select(rows, "no range", "unchanged passes", n=n))
        body.append([f"{n:,}", percent(passed), percent(failed), f"{power:.2f}"])
    return table([["items", "passes", "fails", "mean power"], *body])


def clusters(rows: Rows) -> str:
    part = [row for row in rows if row.part == "clusters"]
    changes = unique([row.case.rsplit(", ", 2)[0] for row in part])
    tests = panel.OWN, "clustered t (not used)", "clusters ignored (not used)"
    body = []
    for count in sorted({row.n for row in part}):
        for change in changes:
            here = [row for row in part if row.n == count and row.case.startswith(f"{change}, ")]
            passed = [largest(select(here, "clusters", "pass", test=test)) for test in tests]
            powers = [select(here, "clusters", "unchanged passes", test=test) for test in tests[:2]]
            failed = largest(select(here, "clusters", "fail"))
            body.append(
                [
                    f"{count}",
                    change,
                    percent(passed[0]),
                    *(f"{100 * row.value:.1f}" for row in passed[1:]),
                    percent(failed),
                    *(f"{smallest(p).value:.2f} to {largest(p).value:.2f}" for p in powers),
                ]
            )
    head = ["clusters", "gains", "passes", "clustered t (not used)", "clusters ignored (not used)"]
    return table([[*head, "fails", "power", "power of clustered t"], *body])


def few(rows: Rows) -> str:
    part = [row for row in rows if row.part == "few"]
    body = []
    for test, case, n in dict.fromkeys((row.test, row.case, row.n) for row in part):
        here = [row for row in part if (row.test, row.case, row.n) == (test, case, n)]
        events = {row.event: percent(row) for row in here}
        body.append([f"{n}", case, test, events["pass"], events.get("fail", "-")])
    return table([["clusters", "gains", "test", "passes", "fails"], *body])


def shared(rows: Rows) -> str:
    part = select(rows, "shared", "note")
    body = []
    for change in unique([row.case.split(", ICC")[0] for row in part]):
        here = [row for row in part if row.case.startswith(f"{change}, ICC")]
        body.append([change, *map(percent, here)])
    return table([["gains", "ICC 0", "ICC .2", "ICC .5"], *body])


def intervals(rows: Rows) -> str:
    part = _covered(rows)
    sizes = sorted({row.n for row in part})
    body = [
        [case, *(f"{100 * row.value:.1f}" for row in part if row.case == case)]
        for case in unique([row.case for row in part])
    ]
    return table([["values", *(f"n {n:,}" for n in sizes)], *body])


def clustered_intervals(rows: Rows) -> str:
    """Tabulate the smallest and largest coverage over ICC .2, .5 and 1 and both kinds of sizes."""
    part = select(rows, "clustered tables", "covers")
    tests = unique([row.test for row in part])
    body = []
    for family in unique([row.case.rsplit(", ", 2)[0] for row in part]):
        for n in sorted({row.n for row in part}):
            found = [
                select(part, "clustered tables", "covers", test=t, case=f"{family}, ", n=n)
                for t in tests
            ]
            cells = [
                f"{100 * smallest(rows).value:.1f} to {100 * largest(rows).value:.1f}"
                for rows in found
            ]
            body.append([family, f"{n}", *cells])
    return table([["values", "clusters", *tests], *body])


def same(rows: Rows) -> str:
    part = [row for row in rows if row.part == "same" and row.test != "Holm on McNemar"]
    body = [
        [f"{row.n:,}", row.case.rsplit(" ", 1)[1], row.test, row.event, percent(row)]
        for row in part
    ]
    return table([["items", "discordance", "rule", "event", "share, %"], *body])


def power(rows: Rows) -> str:
    body = [
        [row.case.split(", ", 1)[1], f"{row.n:,}", percent(row)]
        for row in select(rows, "power", "unchanged passes")
    ]
    return table([["setting", "items planned for power .8", "unchanged passes, %"], *body])


def estimands(rows: Rows) -> str:
    body = []
    for setting, n in _settings(rows):
        line = [f"{n:,} items, {setting}"]
        for gain, events in (("a margin worse", ("pass", "fail")), ("unchanged", ("pass",))):
            for test in ("population", "items"):
                case = f"{gain} over all questions, {setting}"
                found = (
                    largest(select(rows, "sequential", event, test=test, case=case, n=n))
                    for event in events
                )
                line.append("; ".join(f"{100 * row.value:.1f}" for row in found))
        body.append(line)
    return table(
        [
            [
                "plan",
                "at the margin, `population`: pass; fail",
                "at the margin, `items`: pass; fail",
                "unchanged, `population`: pass",
                "unchanged, `items`: pass",
            ],
            *body,
        ]
    )


def _settings(rows: Rows) -> list[tuple[str, int]]:
    found = select(rows, "sequential", "pass", test="population", case="unchanged")
    return [(row.case.split(", ", 1)[1], row.n) for row in found]


def items_used(rows: Rows) -> str:
    body = []
    for setting, n in _settings(rows):
        for gain in ("a margin better", "unchanged", "a margin worse"):
            case = f"{gain} over all questions, {setting}"
            line = [f"{n:,} items, {setting}", gain]
            for test in ("population", "items"):
                (used,) = select(rows, "sequential", "items used", test=test, case=case, n=n)
                (passed,) = select(rows, "sequential", "pass", test=test, case=case, n=n)
                line.append(f"{amount(used, 0)}; {100 * passed.value:.1f} %")
            body.append(line)
    head = ["plan", "candidate", "`population`: items used; passes", "`items`: items used; passes"]
    return table([head, *body])


def peeking(rows: Rows) -> str:
    found = [
        *select(rows, "sequential", "pass", test="looking every"),
        *select(rows, "sequential", "pass", case="on these items"),
    ]
    body = [[f"{row.n:,}", row.test, row.case, percent(row)] for row in found]
    published = [
        [f"{row.n:,}", row.test, row.case, f"{amount(row, 0)} items used"]
        for row in select(rows, "sequential", "items used", case="published")
    ]
    return table([["items", "test", "candidate", "passes, %"], *body, *published])


def stream(rows: Rows) -> str:
    body = []
    for test in unique([row.test for row in rows if row.part == "stream"]):
        here = {row.event: row for row in rows if (row.part, row.test) == ("stream", test)}
        share = here["false share of discoveries"]
        body.append([test, percent(here["true gains found"]), f"{100 * share.value:.2f}"])
    return table([["level", "true gains found, %", "false share of discoveries, %"], *body])


def policies(rows: Rows) -> str:
    case = "discordance 0.1, margin .02"
    tests = unique([row.test for row in select(rows, "loops", "promotions", case=case)])
    body = [_loop(rows, test, case, 1319, test) for test in tests]
    return table([["policy", *LOOP_HEAD, "ends below -2 points, %"], *body])


LOOP_HEAD = ["promotions", "of these harmful", "true gain, points", "seen gain, points"]


def _loop(rows: Rows, name: str, case: str, n: int, test: str) -> list[str]:
    here = {
        row.event: row
        for row in rows
        if (row.part, row.test, row.case, row.n) == ("loops", test, case, n)
    }
    last = here.get("noise candidates promoted", here["regressed"])
    return [
        name,
        amount(here["promotions"]),
        amount(here["harmful"], 3),
        amount(here["true gain"], 2, 100, "+"),
        amount(here["seen gain"], 2, 100, "+"),
        amount(last, 1, 100),
    ]


def discordances(rows: Rows) -> str:
    names = ["greedy: any gain", "non-inferior to incumbent and anchor", "Ladder"]
    body = []
    for discordance in ("0.08", "0.1", "0.2"):
        case = f"discordance {discordance}, margin .02"
        found = [select(rows, "loops", "promotions", test=name, case=case) for name in names]
        body.append([discordance, *(amount(largest(rows)) for rows in found)])
    return table([["discordance", *names], *body])


def thresholds(rows: Rows) -> str:
    case = "discordance 0.1, margin 0.02"
    tests = unique(
        [row.test for row in select(rows, "loops", "promotions", test="threshold", case=case)]
    )
    head = ["threshold, gate's items", *LOOP_HEAD, "noise candidates promoted, %"]
    return table([head, *(_loop(rows, t.removeprefix("threshold "), case, 1319, t) for t in tests)])


def thresholds_elsewhere(rows: Rows) -> str:
    """Tabulate thresholds on fresh items, with few items and with a margin that stops nothing."""
    body = []
    for margin, n in (("0.05", 200), ("0.5", 1319)):
        case = f"discordance 0.1, margin {margin}"
        for row in select(rows, "loops", "true gain", test="fresh", case=case, n=n):
            (noise,) = select(
                rows, "loops", "noise candidates promoted", test=row.test, case=case, n=n
            )
            body.append(
                [
                    f"{n:,} items, margin {margin}",
                    row.test.split()[1].rstrip(","),
                    amount(row, 2, 100, "+"),
                    amount(noise, 1, 100),
                ]
            )
    return table(
        [["setting", "threshold", "true gain, points", "noise candidates promoted, %"], *body]
    )


def noise(rows: Rows) -> str:
    part = [row for row in rows if row.part == "noise"]
    tests = unique([row.test for row in part])
    body = []
    for case in unique([row.case for row in part]):
        here = [row for row in part if row.case == case]
        share = case.split()[3]
        found = [
            "; ".join(
                percent(*select(here, "noise", event, test=test)) for event in ("pass", "fail")
            )
            for test in tests
        ]
        body.append([share, *found])
    return table([["runs differ by", *(f"{test}: passes; fails" for test in tests)], *body])


TABLES: dict[str, Callable[[Rows], str]] = {
    "yes-no": yes_no,
    "yes-no-worst": yes_no_worst,
    "yes-no-power": yes_no_power,
    "panel-errors": panel_errors,
    "panel-power": panel_power,
    "panel-cases": panel_cases,
    "no-range": no_range,
    "clusters": clusters,
    "few": few,
    "shared": shared,
    "intervals": intervals,
    "clustered-intervals": clustered_intervals,
    "same": same,
    "power": power,
    "estimands": estimands,
    "items-used": items_used,
    "peeking": peeking,
    "stream": stream,
    "policies": policies,
    "discordances": discordances,
    "thresholds": thresholds,
    "thresholds-elsewhere": thresholds_elsewhere,
    "noise": noise,
}
