"""Estimate the seconds until work is done, or None while they cannot be estimated.

Units that are done one after the other, or a fixed number at a time, continue at the pace of the
latest half of them. Responses that are generated in batches do not: the short ones finish first, so
the pace of finished responses is not that of the others. For them the estimate combines

- the lengths of responses, from those that finished and the ages of those under way (E. L. Kaplan
  and P. Meier, JASA 1958; beyond the oldest, the rate at which the latest ended), and
- the cost of a step: a constant plus a cost per row of the batch (least squares).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

ROUNDS = 2  # of units under way together, to be done before the first estimate
MAX_MARKS = 256  # moments that are kept
LATEST_ENDS, LATEST_SHARE = 3, 0.2  # responses whose rate of ending is extrapolated
FINISHED_SHARE = 0.25  # of a batch's rows, before the first estimate
STEPS_SHARE = 0.5  # of the longest response: from then on at most as much is left


class Steady:
    """Estimate work whose units are done one after the other, or several at a time.

    Args:
        phases: (units, cost of each) in order, if their costs differ.
    """

    def __init__(self, total: int, now: float, phases: Sequence[tuple[int, float]] = ()) -> None:
        self.total = total
        self.at_once = 1
        self._phases = phases
        self._first = self._done = 0
        self._marks = [(now, 0.0)]

    def already(self, count: int, now: float) -> None:
        """Count units that were done before, which say nothing about the pace."""
        self._first += count
        self._done += count
        self._marks = [(now, self._cost(self._done))]

    def advance(self, count: int, now: float) -> None:
        self._done += count
        self._marks.append((now, self._cost(self._done)))
        if len(self._marks) > MAX_MARKS:
            self._marks = [*self._marks[::2], self._marks[-1]]

    def seconds(self, now: float) -> float | None:
        """Return the seconds until all units are done, or None."""
        fresh = self._done - self._first
        if fresh < 1 or (fresh < ROUNDS * self.at_once and 2 * self._done < self.total):
            return None
        start, end = self._marks[0][1], self._marks[-1][1]
        since, before = max(mark for mark in self._marks if mark[1] <= (start + end) / 2)
        return (self._cost(self.total) - end) * (now - since) / (end - before)

    def _cost(self, done: int) -> float:
        if not self._phases:
            return float(done)
        cost, left = 0.0, done
        for units, each in self._phases:
            cost += each * min(units, left)
            left -= min(units, left)
        return cost


@dataclass
class Batches:
    """Estimate responses that are generated in batches: each step adds a token to each row.

    A row stands for `each` responses, because equal ones are generated once.
    """

    limit: int  # tokens of a response, at most
    each: int = 1
    rows: int = 0  # under way
    step: int = 0  # tokens of each row so far
    size: int = 0  # rows at the beginning of the batch
    _ended: Counter[int] = field(default_factory=Counter)  # length -> responses, finished by now
    _sums: list[float] = field(default_factory=lambda: [0.0] * 5)  # of 1, r, rr, t, rt by steps
    _last: float = 0.0
    _overhead: float = 0.0  # seconds between batches: prompts that are read

    def begin(self, rows: int, now: float, since: float) -> None:
        """Begin a batch of `rows`, whose preparation began at `since`."""
        self.rows = self.size = rows
        self.step = 0
        self._overhead = now - since
        self._last = now

    def advance(self, finished: int, now: float) -> None:
        """Count one token per row, with which `finished` of the rows ended."""
        r, t = self.rows, now - self._last
        self._sums = [s + x for s, x in zip(self._sums, (1, r, r * r, t, r * t), strict=True)]
        self._last = now
        self.step += 1
        self.rows -= finished
        self._ended[self.step] += finished

    def seconds(self, waiting: int) -> float | None:
        """Return the seconds until these rows and the `waiting` ones are done, or None."""
        ended = self._ended.total()
        if ended < FINISHED_SHARE * (ended + self.rows) and self.step < STEPS_SHARE * self.limit:
            return None
        alive = self._survival()
        of_step, of_row = self._costs()
        found = 0.0
        if self.rows:
            found += _time(alive[self.step :], self.rows, of_step, of_row)
        full, rest = divmod(waiting, max(1, self.size))
        for count, rows in ((full, self.size), (min(1, rest), rest)):
            if count:
                found += count * (self._overhead + _time(alive, rows, of_step, of_row))
        return found

    def _survival(self) -> list[float]:
        """Estimate the share of responses with more than 0, 1, ... tokens; all end at the limit."""
        oldest = max(self.step if self.rows else 0, max(self._ended, default=0))
        total = self._ended.total()
        alive, risks, risk = [1.0], [0], total + self.rows
        for length in range(1, min(oldest + 1, self.limit)):
            risks.append(risk)
            dead = self._ended[length]
            alive.append(alive[-1] * (1 - dead / risk) if risk else alive[-1])
            risk -= dead + (self.rows if length == self.step else 0)
        wanted = max(LATEST_ENDS, total * LATEST_SHARE)
        ends = exposed = 0
        for length in range(len(risks) - 1, 0, -1):
            ends, exposed = ends + self._ended[length], exposed + risks[length]
            if ends >= wanted:
                break
        hazard = (ends + 0.5) / (exposed + 1)
        while len(alive) < self.limit:
            alive.append(alive[-1] * (1 - min(1.0, hazard)))
        return alive

    def _costs(self) -> tuple[float, float]:
        """Fit the seconds per step, and per row in a step."""
        n, r, rr, t, rt = self._sums
        spread = n * rr - r * r
        if spread > 1e-4 * r * r:
            of_row = (n * rt - r * t) / spread
            of_row = min(max(0.0, of_row), t / r)
        else:
            of_row = t / r / 2
        return (t - of_row * r) / n, of_row


def _time(alive: Sequence[float], rows: int, of_step: float, of_row: float) -> float:
    """Estimate the seconds for a batch of `rows`, whose survival `alive` gives per step."""
    first = alive[0] if alive else 0.0
    if first <= 0:
        return 0.0
    steps = tokens = 0.0
    for share in alive:
        left = share / first
        if left * rows < 1e-3:
            break
        tokens += rows * left
        steps += -math.expm1(rows * math.log1p(-left)) if left < 1 else 1.0
    return of_step * steps + of_row * tokens
