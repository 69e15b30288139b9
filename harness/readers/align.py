"""Compare two evaluations that other tools recorded: say in words why they cannot be compared."""

from __future__ import annotations

from collections import Counter

from harness.core.errors import UserError
from harness.core.schema import Metric
from harness.core.scored import ScoredEvaluation
from harness.core.text import listed, plural, shorten
from harness.readers.answers import plain_name

SHOWN_CHARS = 60  # of an item in a message


def align(
    before: ScoredEvaluation, after: ScoredEvaluation, sources: tuple[str, str]
) -> tuple[ScoredEvaluation, ScoredEvaluation]:
    """Return both evaluations with the baseline's definition of each metric that both have.

    A metric is yes/no only if it is on both sides.

    Raises:
        UserError: the items differ, a metric has two directions, or a value of the candidate lies
            outside the metric's range. The message says what differs, with the names in `sources`.
    """
    _require_same_items(before, after, sources)
    old, new = before.evaluation, after.evaluation
    shared = {
        name: _agreed(old.definitions[name], new.definitions[name], after, sources)
        for name in old.definitions
        if name in new.definitions
    }
    return (
        before.with_definitions(old.definitions | shared),
        after.with_definitions(new.definitions | shared),
    )


def _agreed(
    old: Metric, new: Metric, candidate: ScoredEvaluation, sources: tuple[str, str]
) -> Metric:
    if old.higher_is_better != new.higher_is_better:
        raise UserError(
            f"{sources[0]} and {sources[1]} disagree whether a higher {shorten(old.name)} is "
            "better. Name it with --lower-is-better, or leave the metric out."
        )
    if old.low is not None and old.high is not None:
        for score in candidate.scores:
            value = score.values.get(old.name, old.low)
            if not old.low <= value <= old.high:
                item = candidate.items[score.index].prompt if candidate.items else score.index
                raise UserError(
                    f"{sources[1]}: {shorten(old.name)} of {_shown(str(item))} is {value:g}, and "
                    f"in {sources[0]} the metric runs from {old.low:g} to {old.high:g}. Score "
                    "both in the same way."
                )
    return old.model_copy(update={"kind": old.kind if old.kind == new.kind else "continuous"})


def _require_same_items(
    before: ScoredEvaluation, after: ScoredEvaluation, sources: tuple[str, str]
) -> None:
    if not before.items or not after.items:  # read from a board, which keeps none
        return
    old, new = (Counter(item.digest for item in side.items) for side in (before, after))
    if old == new:
        return
    shown = {item.digest: item.prompt for side in (after, before) for item in side.items}
    only_old, only_new = ([shown[name] for name in (a - b)] for a, b in ((old, new), (new, old)))
    parts = [
        f"only {source} has {len(names)} {plural('item', len(names))} "
        f"({listed(map(_shown, sorted(names)), 3)})"
        for source, names in zip(sources, (only_old, only_new), strict=True)
        if names
    ]
    same = (old & new).total()
    raise UserError(
        f"The two sides of {shorten(before.evaluation.task)} have different items: {same:,} are on "
        f"both, {'; '.join(parts)}. {_likely_cause(only_old, only_new)}"
    )


def _likely_cause(only_old: list[str], only_new: list[str]) -> str:
    plain = {plain_name(name): name for name in only_old}
    for name in only_new:
        other = plain.get(plain_name(name))
        if other == name:
            return (
                f"{_shown(name)} is on both sides, but what is right for it differs, or how it is "
                "checked. Evaluate both on the same version of the items."
            )
        if other is not None:
            return (
                f"{other!r} and {name!r} only look alike: items are compared character by "
                "character. Write them alike."
            )
    return "Evaluate both on the same items: the gate never compares only those they share."


def _shown(name: str) -> str:
    return f"'{shorten(name, SHOWN_CHARS)}'"
