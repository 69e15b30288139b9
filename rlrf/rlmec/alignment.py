"""Which tokens of a rewrite are edits: the Levenshtein alignment, with unit costs.

V. I. Levenshtein, Soviet Physics Doklady 1966; R. A. Wagner and M. J. Fischer, JACM 1974.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def edited(before: Sequence[int], after: Sequence[int]) -> list[bool]:
    """Of each token of `after`, whether it was inserted or substituted."""
    return [
        place is None or before[place] != token
        for place, token in zip(align(before, after), after, strict=True)
    ]


def align(before: Sequence[int], after: Sequence[int]) -> list[int | None]:
    """Of each token of `after` the position in `before` that it keeps or takes; None: inserted.

    As few insertions, substitutions and deletions as there can be. Of several such alignments it
    is one that keeps the common beginning and end.
    """
    shorter = min(len(before), len(after))
    head = next((i for i in range(shorter) if before[i] != after[i]), shorter)
    room = shorter - head
    tail = next((i for i in range(room) if before[-1 - i] != after[-1 - i]), room)
    end = len(before) - tail
    middle = _align(before[head:end], after[head : len(after) - tail])
    moved = [None if place is None else head + place for place in middle]
    return [*range(head), *moved, *range(end, len(before))]


def _align(before: Sequence[int], after: Sequence[int]) -> list[int | None]:
    costs = _costs(before, after)
    places: list[int | None] = [None] * len(after)
    i, j = len(before), len(after)
    while i and j:
        if costs[i, j] == costs[i - 1, j - 1] + (before[i - 1] != after[j - 1]):
            i, j = i - 1, j - 1
            places[j] = i
        elif costs[i, j] == costs[i - 1, j] + 1:
            i -= 1
        else:
            j -= 1
    return places


def _costs(before: Sequence[int], after: Sequence[int]) -> npt.NDArray[np.int32]:
    """Edit distance of each pair of prefixes, shape (before + 1, after + 1)."""
    wanted = np.asarray(after, dtype=np.int64)
    steps = np.arange(len(after) + 1, dtype=np.int32)
    costs = np.empty((len(before) + 1, len(after) + 1), dtype=np.int32)
    costs[0] = steps
    for i, token in enumerate(before, start=1):
        row = costs[i - 1] + 1  # the token deleted
        np.minimum(row[1:], costs[i - 1, :-1] + (wanted != token), out=row[1:])
        # Insertions go along the row: the least of row[k] + (j - k) over k <= j.
        costs[i] = np.minimum.accumulate(row - steps) + steps
    return costs
