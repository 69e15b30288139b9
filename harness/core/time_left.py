"""Estimate the seconds that work will still take, or say that nobody can know yet.

Two kinds of work are told apart. Units that are done one after the other, or so many at a time,
go on at the pace of the latest half of them. Responses that are generated in batches are another
matter: those that finish first are the short ones, so that a pace of finished responses says
nothing of the long ones. Of them the estimate takes

- how long responses are, from those that finished and from the ages of those under way (E. L.
  Kaplan and P. Meier, JASA 1958; beyond the oldest, the rate at which the latest ended), and
- what a step costs, as a part for the step and a part for each row in it (least squares).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

ROUNDS = 2  # of units under way together that are to be done before anything is said
MAX_MARKS = 256  # moments that are remembered
LATEST_ENDS, LATEST_SHARE = 3, 0.2  # of the responses: those whose rate of ending goes on
FINISHED_SHARE = 0.25  # of the rows of a batch, before anything is said of it
STEPS_SHARE = 0.5  # of the longest response; then the rest is no longer than what was


class Steady:
    """Units done one after the other, or several at a time.

    Args:
        phases: (units, cost of each) in order, where not all cost the same.
    """

    def __init__(self, total: int, now: float, phases: Sequence[tuple[int, float]] = ()) -> None:
        self.total = total
        self.at_once = 1
        self._phases = phases
        self._first = self._done = 0
        self._marks = [(now, 0.0)]

    def already(self, count: int, now: float) -> None:
        """Count units that were done before, and say nothing of the pace."""
        self._first += count
        self._done += count
        self._marks = [(now, self._cost(self._done))]

    def advance(self, count: int, now: float) -> None:
        self._done += count
        self._marks.append((now, self._cost(self._done)))
        if len(self._marks) > MAX_MARKS:
            self._marks = [*self._marks[::2], self._marks[-1]]

    def seconds(self, now: float) -> float | None:
        """Seconds until all is done; None where that cannot be said yet."""
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
    """Responses generated in batches: a step gives each row of a batch a token.

    A row is `each` responses, where equal ones are made once.
    """

    limit: int  # tokens of a response, at most
    each: int = 1
    rows: int = 0  # under way
    step: int = 0  # tokens that each of them has
    size: int = 0  # rows of the batch at its beginning
    _ended: Counter[int] = field(default_factory=Counter)  # length -> responses, finished by now
    _sums: list[float] = field(default_factory=lambda: [0.0] * 5)  # of 1, r, rr, t, rt by steps
    _last: float = 0.0
    _overhead: float = 0.0  # seconds between batches: prompts that are read

    def begin(self, rows: int, now: float, since: float) -> None:
        """A batch of `rows` is about to get its first tokens; it was made ready from `since` on."""
        self.rows = self.size = rows
        self.step = 0
        self._overhead = now - since
        self._last = now

    def advance(self, finished: int, now: float) -> None:
        """Each row got a token, and `finished` of the rows ended with it."""
        r, t = self.rows, now - self._last
        self._sums = [s + x for s, x in zip(self._sums, (1, r, r * r, t, r * t), strict=True)]
        self._last = now
        self.step += 1
        self.rows -= finished
        self._ended[self.step] += finished

    def seconds(self, waiting: int) -> float | None:
        """Seconds until these rows and the `waiting` ones are done; None where nobody can know."""
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
        """Share of responses that have more than 0, 1, ... tokens; all end at the limit."""
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
        """Seconds of a step, and of each row in it."""
        n, r, rr, t, rt = self._sums
        spread = n * rr - r * r
        if spread > 1e-4 * r * r:
            of_row = (n * rt - r * t) / spread
            of_row = min(max(0.0, of_row), t / r)
        else:
            of_row = t / r / 2
        return (t - of_row * r) / n, of_row


def _time(alive: Sequence[float], rows: int, of_step: float, of_row: float) -> float:
    """Seconds of a batch of `rows` that survive as `alive` says: steps while there is any."""
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
